"""Quantization under the names of MindIE SD."""
from .config import OnlineQuantConfig, QuantConfig, TimestepPolicyConfig
from .quantize import quantize
from .utils import TimestepManager

__all__ = ["quantize", "TimestepManager", "OnlineQuantConfig", "QuantConfig", "TimestepPolicyConfig"]
