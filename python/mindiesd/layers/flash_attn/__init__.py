"""Attention under the names of MindIE SD."""
from ...not_offered import not_offered
from . import sparse_flash_attn_rf_v2
from .attention_forward import attention_forward
from .attention_forward_varlen import attention_forward_varlen
from .quant_flash_attn import quant_attention
from .sparse_flash_attn import sparse_attention

SparseLinearAttention = not_offered("SparseLinearAttention")
__all__ = ["attention_forward", "attention_forward_varlen", "quant_attention", "sparse_attention", "SparseLinearAttention",
           "sparse_flash_attn_rf_v2"]
