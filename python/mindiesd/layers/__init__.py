"""Layers of diffusion transformers under the names of MindIE SD: aerogel's attention, and plain torch for the rest."""
from ..not_offered import not_offered
from .activation import get_activation_layer
from .adalayernorm import layernorm_scale_shift
from .flash_attn import SparseLinearAttention, attention_forward, attention_forward_varlen, quant_attention, sparse_attention
from .gates import muls_add, residual_gate_add
from .norm import RMSNorm, fast_layernorm
from .rope import rotary_position_embedding

frequency_regulator = not_offered("frequency_regulator")
fused_moe = not_offered("fused_moe")

__all__ = ["RMSNorm", "attention_forward", "attention_forward_varlen", "fast_layernorm", "frequency_regulator", "fused_moe",
           "get_activation_layer", "layernorm_scale_shift", "muls_add", "quant_attention", "residual_gate_add", "rotary_position_embedding",
           "sparse_attention", "SparseLinearAttention"]
