"""The sizes of an attention call, as MindIE SD's choice of an operator takes them."""
from dataclasses import dataclass

import torch


@dataclass
class AttentionParam:
    """head_first: heads come before tokens."""

    batch_size: int
    head_num: int
    head_dim: int
    q_seqlen: int
    kv_seqlen: int
    dtype: torch.dtype
    head_first: bool
