"""attention_forward_varlen: sequences of various lengths, packed one after the other."""
from collections.abc import Iterable
from typing import Any, Optional

import torch
import torch.nn.functional as F
from aerogel import attention

from ...utils.exception import ParametersInvalid, invalid_arguments
from .without_effect import asks_for_something, shown

_OP = "attention_forward_varlen"


def _bounds(name: str, cumulative: Iterable[int], tokens: int) -> list[int]:
    """[0, n0, n0 + n1, ...] as numbers, checked."""
    bounds = [int(n) for n in cumulative]
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != tokens or any(a > b for a, b in zip(bounds, bounds[1:])):
        raise ParametersInvalid(f"[{_OP}] {name} must rise from 0 to the {tokens} tokens, got {bounds}")
    return bounds


def _one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None, causal: bool) -> torch.Tensor:
    """[tokens, heads, head_dim] of one sequence. causal: the last query sees all keys, each one before it one key less."""
    if q.shape[0] == 0 or k.shape[0] == 0:
        return torch.zeros_like(q)
    if not causal:
        return attention(q[None], k[None], v[None], input_layout="BSND", scale=scale)[0]
    mask = torch.ones(q.shape[0], k.shape[0], dtype=torch.bool).tril(k.shape[0] - q.shape[0])
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return o[0].transpose(0, 1)  # zeros where a query sees no key


def _refuse(dropout_p: float, max_seqlen: dict[str, Any], further: dict[str, Any]) -> None:
    asked = {name: value for name, value in max_seqlen.items() if value is not None}
    asked |= {name: value for name, value in further.items() if asks_for_something(name, value)}
    if asked:
        raise ParametersInvalid(f"[{_OP}] Unsupported parameters in varlen attention: {', '.join(f'{n}={shown(v)}' for n, v in asked.items())}; a mask "
                                "says the same, one sequence at a time in attention_forward(..., attn_mask=)")
    if abs(dropout_p) > 1e-6:
        raise ParametersInvalid(f"[{_OP}] dropout_p should be set to 0.0 during evaluation, but got {dropout_p}")


@invalid_arguments
def attention_forward_varlen(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens_q: Iterable[int],
        cu_seqlens_k: Iterable[int],
        max_seqlen_q: Optional[int] = None,
        max_seqlen_k: Optional[int] = None,
        dropout_p: float = 0.0,
        softmax_scale: Optional[float] = None,
        causal: bool = False,
        window_size: Any = None,
        softcap: Optional[float] = None,
        alibi_slopes: Optional[torch.Tensor] = None,
        deterministic: Optional[bool] = None,
        return_attn_probs: Optional[bool] = None,
        block_table: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """softmax(scale q k^T) v within each sequence.

    q, k, v: [tokens, heads, head_dim]. cu_seqlens_q, cu_seqlens_k: cumulative lengths from 0, [sequences + 1], a list or a tensor.
    causal: the last query of a sequence sees all of its keys (torch computes then). The others must be None, or ask for nothing
    (window_size=(-1, -1), softcap=0.0, deterministic=False, return_attn_probs=False), as in MindIE SD.
    Returns [tokens, heads, head_dim]. Raises ParametersInvalid for what does not fit."""
    _refuse(dropout_p, {"max_seqlen_q": max_seqlen_q, "max_seqlen_k": max_seqlen_k},
            {"window_size": window_size, "softcap": softcap, "alibi_slopes": alibi_slopes, "deterministic": deterministic,
             "return_attn_probs": return_attn_probs, "block_table": block_table})
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 3:
            raise ParametersInvalid(f"[{_OP}] Expected {name} to be 3D (T, N, D), but got {tensor.dim()}D tensor: {list(tensor.shape)}")
    q_bounds, k_bounds = _bounds("cu_seqlens_q", cu_seqlens_q, q.shape[0]), _bounds("cu_seqlens_k", cu_seqlens_k, k.shape[0])
    if len(q_bounds) != len(k_bounds):
        raise ParametersInvalid(f"[{_OP}] cu_seqlens_q and cu_seqlens_k must have one length, got {len(q_bounds)} and {len(k_bounds)}")
    spans = zip(zip(q_bounds, q_bounds[1:]), zip(k_bounds, k_bounds[1:]))
    return torch.cat([_one(q[a:b], k[c:d], v[c:d], softmax_scale, causal) for (a, b), (c, d) in spans])
