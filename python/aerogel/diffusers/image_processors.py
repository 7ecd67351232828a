"""The fused processors of Z-Image and FLUX.2, whose q and k are normalized head by head."""
from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_flux2 import Flux2AttnProcessor, Flux2ParallelSelfAttnProcessor, _get_qkv_projections
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor

from .._watching import transformed
from .rotated_norm import epsilon_of, fits, rotated_norm


def _plain(x: torch.Tensor, *norms: Any) -> bool:
    """Whether nobody watches and rotated_norm() computes what all of these norms do."""
    return not torch.is_grad_enabled() and not transformed() and all(fits(norm, x) for norm in norms)


def _rotated(x: torch.Tensor, norm: Any, tables: list[torch.Tensor]) -> torch.Tensor:
    """x [batch, tokens, heads * head_dim] -> [batch, tokens, heads, head_dim]; tables [tokens, head_dim / 2]."""
    return torch.ops.aerogel.rotated_norm(x, norm.weight, tables, epsilon_of(norm, x), True)


class ZImageProcessor(ZSingleStreamAttnProcessor):
    """ZSingleStreamAttnProcessor with rotated_norm(), where all images of the batch have their tokens at the same places."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, freqs_cis: torch.Tensor | None = None) -> torch.Tensor:
        alike = freqs_cis is not None and freqs_cis.ndim == 3 and freqs_cis.shape[0] == 1 and freqs_cis.is_complex()
        if freqs_cis is None or not alike or not _plain(hidden_states, attn.norm_q, attn.norm_k):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, freqs_cis)
        tables = [freqs_cis[0].real, freqs_cis[0].imag]
        q, k = _rotated(attn.to_q(hidden_states), attn.norm_q, tables), _rotated(attn.to_k(hidden_states), attn.norm_k, tables)
        v = attn.to_v(hidden_states).unflatten(-1, (attn.heads, -1))
        mask = attention_mask[:, None, None] if attention_mask is not None and attention_mask.ndim == 2 else attention_mask
        o = dispatch_attention_fn(q, k, v, attn_mask=mask, backend=self._attention_backend, parallel_config=self._parallel_config)
        o = o.flatten(2, 3).to(q.dtype)
        for module in attn.to_out[:2]:
            o = module(o)
        return o


class Flux2Processor(Flux2AttnProcessor):
    """Flux2AttnProcessor of the double blocks with rotated_norm()."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None,
                 attention_mask: torch.Tensor | None = None, image_rotary_emb: Any = None) -> Any:
        norms = [attn.norm_q, attn.norm_k]
        if attn.added_kv_proj_dim is not None:
            norms += [attn.norm_added_q, attn.norm_added_k]
        both = encoder_hidden_states is not None and attn.added_kv_proj_dim is not None
        if not both or image_rotary_emb is None or encoder_hidden_states is None or not _plain(hidden_states, *norms):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        q, k, v, text_q, text_k, text_v = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        text = text_q.shape[1]
        tables = [table[:, ::2] for table in image_rotary_emb]  # each value stands there twice
        before, behind = [table[:text] for table in tables], [table[text:] for table in tables]
        q = torch.cat([_rotated(text_q, attn.norm_added_q, before), _rotated(q, attn.norm_q, behind)], dim=1)
        k = torch.cat([_rotated(text_k, attn.norm_added_k, before), _rotated(k, attn.norm_k, behind)], dim=1)
        v = torch.cat([text_v, v], dim=1).unflatten(-1, (-1, attn.head_dim))
        o = dispatch_attention_fn(q, k, v, attn_mask=attention_mask, backend=self._attention_backend, parallel_config=self._parallel_config)
        of_text, of_image = o.flatten(2, 3).to(q.dtype).split_with_sizes([text, q.shape[1] - text], dim=1)
        return attn.to_out[1](attn.to_out[0](of_image)), attn.to_add_out(of_text)


class Flux2SingleProcessor(Flux2ParallelSelfAttnProcessor):
    """Flux2ParallelSelfAttnProcessor of the single blocks with rotated_norm()."""

    def __call__(self, attn: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None,
                 image_rotary_emb: Any = None) -> torch.Tensor:
        if image_rotary_emb is None or not _plain(hidden_states, attn.norm_q, attn.norm_k):
            return super().__call__(attn, hidden_states, attention_mask, image_rotary_emb)
        made = attn.to_qkv_mlp_proj(hidden_states)
        attended, gated = 3 * attn.inner_dim, attn.mlp_hidden_dim * attn.mlp_mult_factor
        attended = made.shape[-1] * attended // (attended + gated)  # a rank's share where the layers are split
        q, k, v = made[..., :attended].chunk(3, dim=-1)
        tables = [table[:, ::2] for table in image_rotary_emb]  # each value stands there twice
        q, k = _rotated(q, attn.norm_q, tables), _rotated(k, attn.norm_k, tables)
        o = dispatch_attention_fn(q, k, v.unflatten(-1, (-1, attn.head_dim)), attn_mask=attention_mask, backend=self._attention_backend,
                                  parallel_config=self._parallel_config)
        o = torch.cat([o.flatten(2, 3).to(q.dtype), attn.mlp_act_fn(made[..., attended:])], dim=-1)
        return attn.to_out(o)


IMAGE_ROWS = {ZSingleStreamAttnProcessor: ZImageProcessor, Flux2AttnProcessor: Flux2Processor,
              Flux2ParallelSelfAttnProcessor: Flux2SingleProcessor}
