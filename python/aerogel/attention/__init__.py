"""Attention of NumPy arrays and torch tensors: dense, in few bits, and sparse.

`aerogel.attention` is the function; the modules of this package are imported by their whole names."""
from .dense import attention
from .quantized import quantized_attention
from .sparse import sparse_attention

__all__ = ["attention", "quantized_attention", "sparse_attention"]
