"""attention_forward: dense attention of a batch."""
import os
from typing import Any

import torch
import torch.nn.functional as F
from aerogel import attention
from aerogel.attention.arguments import attended

from ...utils.exception import ParametersInvalid, invalid_arguments, require
from ...utils.get_platform import is_a5_device
from ...utils.logs import logger
from .common import AttentionParam
from .without_effect import refuse_requests

_OP = "attention_forward"
_CHOICES = {"opt_mode": ("runtime", "static", "manual"), "op_type": ("prompt_flash_attn", "fused_attn_score", "ascend_laser_attention"),
            "layout": ("BNSD", "BSND", "BSH")}
_LASER_TOKENS = 2048  # fewer take another operator


def get_manual_attention_op_type(attn_param: AttentionParam, op_type: str) -> str:
    """The operator that stands behind a name for these sizes: ascend_laser_attention is for 2,048 tokens and more, and not for A5 cards, nor
    is prompt_flash_attn."""
    if is_a5_device() and op_type != "fused_attn_score":
        logger.warning("[%s] %s is not for A5 cards: fused_attn_score", _OP, op_type)
        return "fused_attn_score"
    if op_type == "ascend_laser_attention" and min(attn_param.q_seqlen, attn_param.kv_seqlen) < _LASER_TOKENS:
        logger.debug("[%s] ascend_laser_attention takes %d tokens or more, got %d queries and %d keys: fused_attn_score", _OP, _LASER_TOKENS,
                     attn_param.q_seqlen, attn_param.kv_seqlen)
        return "fused_attn_score"
    return op_type


def _check_choices(choices: dict[str, Any]) -> None:
    """opt_mode, op_type and layout choose between operators of a card; here they are checked and have no effect. As there, the environment
    variable MINDIE_SD_FA_TYPE comes before op_type in the mode "manual"."""
    chosen = {name: choices.pop(name) for name in _CHOICES if name in choices}
    refuse_requests(_OP, choices)
    named = os.environ.get("MINDIE_SD_FA_TYPE")
    if named and chosen.get("opt_mode") == "manual":
        chosen["op_type"] = named
    for name, value in chosen.items():
        if value not in _CHOICES[name]:
            raise ParametersInvalid(f"[{_OP}] {name} must be one of {', '.join(_CHOICES[name])}, got {value!r}")


def _masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor, *, scale: float | None,
            head_first: bool) -> torch.Tensor:
    """attn_mask: [q_len, k_len] or [batch, heads, q_len, k_len], non-zero = attend; floats: 0 = attend, -inf = not."""
    q, k, v = (query, key, value) if head_first else (t.transpose(1, 2) for t in (query, key, value))
    if attn_mask.dim() not in (2, 4) or tuple(attn_mask.shape[-2:]) != (q.shape[2], k.shape[2]):
        raise ParametersInvalid(f"[{_OP}] attn_mask must be [{q.shape[2]},{k.shape[2]}] or [batch, heads, {q.shape[2]},{k.shape[2]}], got "
                                f"{list(attn_mask.shape)}")
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=attended(_OP, "attn_mask", attn_mask).bool(), scale=scale,
                                       enable_gqa=q.shape[1] != k.shape[1])
    return o if head_first else o.transpose(1, 2)


@invalid_arguments
def attention_forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None,
                      scale: float | None = None, fused: bool = True, head_first: bool = False, **kwargs: Any) -> torch.Tensor:
    """softmax(scale q k^T) v per head.

    query, key, value: [batch, tokens, heads, head_dim], or [batch, heads, tokens, head_dim] with head_first; float32, bfloat16 or
    float16. attn_mask: [q_len, k_len] or [batch, heads, q_len, k_len], bool or integers, non-zero = attend, or floats as torch adds them, 0
    = attend and -inf = not. With a mask torch computes, without one Aerogel does.
    scale: head_dim**-0.5 by default. fused, opt_mode, op_type, layout and the environment variable MINDIE_SD_FA_TYPE select between
    operators of Ascend cards: they are checked and have no effect. Keywords of flash attention are taken where they ask for nothing
    (window_size=(-1, -1), softcap=0.0, dropout_p=0.0, causal=False).
    Returns a tensor like query. Raises ParametersInvalid for what does not fit, TypeError for other keywords."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        require(_OP, name, tensor, torch.Tensor)
        if tensor.dim() != 4:
            raise ParametersInvalid(f"[{_OP}] {name} must have 4 axes, got {list(tensor.shape)}")
    require(_OP, "fused", fused, bool)
    if scale is not None:
        require(_OP, "scale", scale, float)
    _check_choices(kwargs)
    if attn_mask is None:
        return attention(query, key, value, input_layout="BNSD" if head_first else "BSND", scale=scale)
    require(_OP, "attn_mask", attn_mask, torch.Tensor)
    return _masked(query, key, value, attn_mask, scale=scale, head_first=head_first)
