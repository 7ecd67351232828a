"""`aerogel.video_models.VIDEO_MODELS`, the table of aerogel.diffusers by its first name."""
from .diffusers.models import VIDEO_MODELS, VideoModel

__all__ = ["VIDEO_MODELS", "VideoModel"]
