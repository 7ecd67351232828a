"""Attention processors of diffusers with RMSNorm and rotary embedding of q and k in one pass of the core (rotated_norm.py).

To add a model, write the processor as a subclass of the model's own and add a row to FUSED.
"""
from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from .._watching import transformed
from .rotated_norm import epsilon_of, fits, rotated_norm


class WanProcessor(WanAttnProcessor):
    """WanAttnProcessor whose self-attention goes through rotated_norm(); all else is left to it, also where gradients may be wanted."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None) -> torch.Tensor:
        plain = encoder_hidden_states is None and attn.add_k_proj is None and not torch.is_grad_enabled() and not transformed()
        plain = plain and rotary_emb is not None and not any(t.ndim != 4 or t.shape[0] * t.shape[2] != 1 for t in rotary_emb)
        if rotary_emb is None or not plain or not all(fits(norm, hidden_states) for norm in (attn.norm_q, attn.norm_k)):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        if attn.fused_projections:
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        tables = [rotary_emb[0][0, :, 0, 0::2], rotary_emb[1][0, :, 0, 1::2]]
        q, k = (torch.ops.aerogel.rotated_norm(x, norm.weight, tables, epsilon_of(norm, x)) for x, norm in
                ((q, attn.norm_q), (k, attn.norm_k)))
        o = dispatch_attention_fn(q, k, v.unflatten(2, (attn.heads, -1)), attn_mask=attention_mask, backend=self._attention_backend,
                                  parallel_config=self._parallel_config)
        return attn.to_out[1](attn.to_out[0](o.flatten(2, 3).type_as(q)))


FUSED = {WanAttnProcessor: WanProcessor}
try:
    from .image_processors import IMAGE_ROWS
except ImportError:  # a diffusers without these models
    pass
else:
    FUSED |= IMAGE_ROWS


def fused(processor: Any) -> Any:
    """The fused processor in the given one's state; None without a row for its very class."""
    row = FUSED.get(type(processor))
    if row is None:
        return None
    result = row()
    result.__dict__.update(processor.__dict__)
    return result
