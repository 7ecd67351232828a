"""Caches of sampling steps that a model calls through: results of attention, or of a range of blocks, stand in for those of later steps."""
from .agent import CacheAgent
from .config import CacheConfig

__all__ = ["CacheAgent", "CacheConfig"]
