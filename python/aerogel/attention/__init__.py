"""Attention of NumPy arrays and torch tensors on the CPU: dense, in few bits, and sparse.

`aerogel.attention` is the function; the modules of this package are imported by their whole names."""
from .calls import attention, sparse_attention
from .quantized import quantized_attention

__all__ = ["attention", "quantized_attention", "sparse_attention"]
