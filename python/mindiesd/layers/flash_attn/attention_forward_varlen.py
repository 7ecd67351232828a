"""attention_forward_varlen: sequences of various lengths, packed one after the other."""
from collections.abc import Iterable
from typing import Optional

import torch
import torch.nn.functional as F
from aerogel import attention

from ...utils.exception import ParametersInvalid, invalid_arguments

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
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return o[0].transpose(0, 1)  # zeros where a query sees no key


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
        window_size: Optional[int] = None,
        softcap: Optional[float] = None,
        alibi_slopes: Optional[torch.Tensor] = None,
        deterministic: Optional[bool] = None,
        return_attn_probs: Optional[bool] = None,
        block_table: Optional[torch.Tensor] = None,
) -> torch.Tensor:
    """softmax(scale q k^T) v within each sequence.

    q, k, v: [tokens, heads, head_dim]. cu_seqlens_q, cu_seqlens_k: cumulative lengths from 0, [sequences + 1], a list or a tensor.
    causal: the last query of a sequence sees all of its keys (torch computes then). max_seqlen_*: not needed. deterministic: has no effect,
    results always are.
    Returns [tokens, heads, head_dim]. Raises ParametersInvalid for what does not fit, NotImplementedError for what is not offered."""
    refused = {"window_size": window_size, "softcap": softcap, "alibi_slopes": alibi_slopes, "return_attn_probs": return_attn_probs or None,
               "block_table": block_table}
    asked = [name for name, value in refused.items() if value is not None]
    if asked:
        raise NotImplementedError(f"[{_OP}] {', '.join(asked)}: not offered; a mask says the same, one sequence at a time in "
                                  "attention_forward(..., attn_mask=)")
    if abs(dropout_p) > 1e-6:
        raise ParametersInvalid(f"[{_OP}] dropout_p must be 0, got {dropout_p}")
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 3:
            raise ParametersInvalid(f"[{_OP}] {name} must be [tokens, heads, head_dim], got {list(tensor.shape)}")
    q_bounds, k_bounds = _bounds("cu_seqlens_q", cu_seqlens_q, q.shape[0]), _bounds("cu_seqlens_k", cu_seqlens_k, k.shape[0])
    if len(q_bounds) != len(k_bounds):
        raise ParametersInvalid(f"[{_OP}] cu_seqlens_q and cu_seqlens_k must have one length, got {len(q_bounds)} and {len(k_bounds)}")
    spans = zip(zip(q_bounds, q_bounds[1:]), zip(k_bounds, k_bounds[1:]))
    return torch.cat([_one(q[a:b], k[c:d], v[c:d], softmax_scale, causal) for (a, b), (c, d) in spans])
