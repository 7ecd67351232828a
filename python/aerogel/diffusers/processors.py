"""Attention processors of diffusers with RMSNorm and rotary embedding of q and k in one pass of the core, where PyTorch makes a dozen.

To add a model, write the processor as a subclass of the model's own and add a row to FUSED.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from .. import _core
from .._arrays import empty
from .._watching import transformed


@torch.library.custom_op("aerogel::rotated_norm", mutates_args=())
def rotated_norm(x: torch.Tensor, weight: torch.Tensor | None, tables: Sequence[torch.Tensor], heads: int, epsilon: float) -> torch.Tensor:
    """rope(rms_norm(x) * weight): x [batch, tokens, heads * head_dim] float32 or bfloat16 -> [batch, tokens, heads, head_dim] of the same dtype.
    weight: [heads * head_dim]. tables: cosines and sines [tokens, head_dim / 2], of pairs of neighbours. Computed in float32, rounded once.
    Raises ValueError for what does not fit."""
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = empty(x.shape, x)
    cos, sin = (table.float().contiguous() for table in tables)
    given = {"cos": cos, "sin": sin, "heads": heads, "epsilon": epsilon}
    _core.rotated_norm(x, y, None if weight is None else weight.float().contiguous(), given)
    return y.unflatten(2, (heads, -1))


@rotated_norm.register_fake
def _(x: torch.Tensor, weight: torch.Tensor | None, tables: Sequence[torch.Tensor], heads: int, epsilon: float) -> torch.Tensor:
    return x.new_empty((*x.shape[:2], heads, x.shape[2] // heads))


def _fits(norm: Any, x: torch.Tensor, tables: tuple[torch.Tensor, torch.Tensor]) -> bool:
    """Whether rotated_norm() computes what `norm` and the tables [1, tokens, 1, head_dim] do."""
    plain = type(norm) is torch.nn.RMSNorm and "forward" not in norm.__dict__ and not norm._forward_hooks and not norm._forward_pre_hooks
    if not plain or norm.weight is not None and norm.weight.device != x.device:  # hooks, as of offloaded weights, would not run
        return False
    if any(t.ndim != 4 or t.shape[0] * t.shape[2] != 1 for t in tables):
        return False
    return x.ndim == 3 and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


class WanProcessor(WanAttnProcessor):
    """WanAttnProcessor whose self-attention goes through rotated_norm(); all else is left to it, also where gradients may be wanted."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        plain = encoder_hidden_states is None and attn.add_k_proj is None and not torch.is_grad_enabled() and not transformed()
        if not plain or rotary_emb is None or not all(_fits(norm, hidden_states, rotary_emb) for norm in (attn.norm_q, attn.norm_k)):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        if attn.fused_projections:
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        tables = [rotary_emb[0][0, :, 0, 0::2], rotary_emb[1][0, :, 0, 1::2]]
        q, k = (torch.ops.aerogel.rotated_norm(x, norm.weight, tables, attn.heads, _epsilon(norm, x)) for x, norm in
                ((q, attn.norm_q), (k, attn.norm_k)))
        o = dispatch_attention_fn(q, k, v.unflatten(2, (attn.heads, -1)), attn_mask=attention_mask, backend=self._attention_backend,
                                  parallel_config=self._parallel_config)
        return attn.to_out[1](attn.to_out[0](o.flatten(2, 3).type_as(q)))


def _epsilon(norm: torch.nn.RMSNorm, x: torch.Tensor) -> float:
    return torch.finfo(x.dtype).eps if norm.eps is None else norm.eps


FUSED = {WanAttnProcessor: WanProcessor}


def fused(processor: Any) -> Any:
    """The fused processor in the given one's state; None without a row for its very class."""
    row = FUSED.get(type(processor))
    if row is None:
        return None
    result = row()
    result.__dict__.update(processor.__dict__)
    return result
