"""RMSNorm and rotary embedding of q and k in one pass of the core, where PyTorch makes a dozen: what the fused processors call."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models import normalization

from .. import _core
from .._arrays import empty
from .norms import FusedRMSNorm


def heads_of(x: torch.Tensor, tables: Sequence[torch.Tensor]) -> int:
    return x.shape[2] // (2 * tables[0].shape[-1])


@torch.library.custom_op("aerogel::rotated_norm", mutates_args=())
def rotated_norm(x: torch.Tensor, weight: torch.Tensor | None, tables: Sequence[torch.Tensor], epsilon: float,
                 per_head: bool = False) -> torch.Tensor:
    """rope(rms_norm(x) * weight): x [batch, tokens, heads * head_dim] float32 or bfloat16 -> [batch, tokens, heads, head_dim] of the same dtype.
    weight: [heads * head_dim]; per_head, which normalizes each head by itself: [head_dim]. tables: cosines and sines [tokens, head_dim / 2], of pairs of neighbours. Computed in float32, rounded once.
    Raises ValueError for what does not fit."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = empty(x.shape, x)
    cos, sin = (table.float().contiguous() for table in tables)
    heads = heads_of(x, tables)
    given = {"cos": cos, "sin": sin, "heads": heads, "epsilon": epsilon, "per_head": per_head}
    _core.rotated_norm(x, y, None if weight is None else weight.float().contiguous(), given)
    return y.unflatten(2, (heads, -1))


@rotated_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor | None, tables: Sequence[torch.Tensor], epsilon: float,
      per_head: bool = False) -> torch.Tensor:
    return x.new_empty((*x.shape[:2], heads_of(x, tables), 2 * tables[0].shape[-1]))


def fits(norm: Any, x: torch.Tensor) -> bool:
    """Whether rotated_norm() computes what `norm` does."""
    plain = type(norm) in (torch.nn.RMSNorm, normalization.RMSNorm, FusedRMSNorm) and getattr(norm, "bias", None) is None
    if not plain or "forward" in norm.__dict__ or norm._forward_hooks or norm._forward_pre_hooks:
        return False
    if norm.weight is not None and norm.weight.device != x.device:  # hooks, as of offloaded weights, would not run
        return False
    return x.ndim == 3 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def epsilon_of(norm: Any, x: torch.Tensor) -> float:
    return torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
