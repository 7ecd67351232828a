"""Quantization under the names of MindIE SD."""
from .config import LayerQuantConfig, OnlineQuantConfig, QuantConfig, TimestepPolicyConfig
from .mode import W8A8_LIST, FP8FAMode, QuantAlgorithm, QuantFlag, QuantMode, QuantModeDescriptor
from .quantize import quantize
from .utils import TimestepManager, extract_constructor_args, get_quant_weight, replace_rank_suffix

__all__ = ["quantize", "TimestepManager", "OnlineQuantConfig", "QuantConfig", "LayerQuantConfig", "TimestepPolicyConfig", "QuantAlgorithm",
           "QuantMode", "QuantFlag", "QuantModeDescriptor", "FP8FAMode", "W8A8_LIST", "extract_constructor_args", "get_quant_weight",
           "replace_rank_suffix"]
