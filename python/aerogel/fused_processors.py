"""`aerogel.fused_processors.FUSED`, the table of aerogel.diffusers by its first name."""
from .diffusers.processors import FUSED, WanProcessor, fused
from .diffusers.rotated_norm import rotated_norm

__all__ = ["FUSED", "WanProcessor", "fused", "rotated_norm"]
