"""The logger "mindiesd"."""
from .logging import logger

__all__ = ["logger"]
