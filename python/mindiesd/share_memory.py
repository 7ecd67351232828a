"""Weights shared by the processes of one card: not offered."""
from .not_offered import not_offered

share_memory = not_offered("share_memory")
