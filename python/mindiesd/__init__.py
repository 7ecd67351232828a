"""The names of MindIE SD 3.1.0 over aerogel: a script written for Ascend cards runs on any CPU.

    from mindiesd import quantize, QuantConfig, TimestepManager, attention_forward

Signatures and meanings are MindIE SD's; the numbers come from aerogel. Devices are the one thing to change in a script: there is no
"npu" here, so say "cpu" and leave out `import torch_npu`. What is not offered raises NotImplementedError and says what to use.
"""
from .cache_agent import CacheAgent, CacheConfig
from .layers import (
    RMSNorm,
    attention_forward,
    attention_forward_varlen,
    fast_layernorm,
    frequency_regulator,
    fused_moe,
    get_activation_layer,
    layernorm_scale_shift,
    quant_attention,
    rotary_position_embedding,
    sparse_attention,
)
from .quantization import OnlineQuantConfig, QuantConfig, TimestepManager, TimestepPolicyConfig, quantize

__version__ = "3.1.0+aerogel"
__all__ = ["CacheConfig", "CacheAgent", "layernorm_scale_shift", "attention_forward", "attention_forward_varlen", "rotary_position_embedding",
           "get_activation_layer", "RMSNorm", "quantize", "OnlineQuantConfig", "QuantConfig", "TimestepManager", "TimestepPolicyConfig",
           "quant_attention", "sparse_attention", "fast_layernorm", "frequency_regulator", "fused_moe"]
