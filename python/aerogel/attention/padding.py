"""Masks that only hide keys, the same ones from all queries and heads of a batch item: padding, of the text as a rule. Attention over the keys that
are seen is the same then, without a mask. Any other mask is none of these, and stays with torch."""
from __future__ import annotations

from collections.abc import Callable

import torch

from .problem import Problem

_LOST = -104.0  # exp of less is 0 in float32


def _hidden_for_sure(p: Problem, most: float) -> bool:
    """Whether adding at most `most` to the score of a key leaves it no weight beside any key to whose score 0 is added: scores of a query differ by
    no more than twice the largest product of norms."""
    if most == -torch.inf:
        return True
    norms = [float(torch.linalg.vector_norm(t.detach(), dim=-1, dtype=torch.float32).max()) for t in (p.q, p.k)]
    scale = p.q.shape[-1] ** -0.5 if p.scale is None else abs(p.scale)
    return most + 2.0 * scale * norms[0] * norms[1] < _LOST


def _of_keys(p: Problem) -> torch.Tensor | None:
    """The mask as [batch, keys] where its rows are all equal, those of the heads too."""
    batch, keys = p.q.shape[0], p.k.shape[p.axis]
    assert p.mask is not None
    mask = p.mask
    if mask.ndim == 2 and p.layout == "BSND" and tuple(mask.shape) == (batch, keys):  # diffusers' [batch, keys]
        return mask
    if mask.ndim > 4 or mask.ndim < 2 or mask.shape[-1] != keys or mask.numel() == 0:
        return None
    mask = mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape))
    row = mask[:, :1, :1]
    if mask.shape[1] * mask.shape[2] > 1 and (mask.device.type != "cpu" or not bool((mask == row).all())):  # a look would wait for the GPU
        return None
    return row[:, 0, 0].expand(batch, keys) if row.shape[0] in (1, batch) else None


def seen_keys(p: Problem) -> torch.Tensor | None:
    """bool [batch, keys] of a mask that hides keys and does nothing else; None of any other mask. On a GPU nobody looks into a mask, as that would
    wait: of bool, with one row for all queries and heads."""
    if p.mask is None or (mask := _of_keys(p)) is None:
        return None
    if mask.dtype == torch.bool:
        return mask if mask.device == p.q.device else None
    if not mask.is_floating_point() or mask.device.type != "cpu":
        return None
    seen = mask == 0
    if bool(seen.all()):
        return seen
    most = float(mask[~seen].max())  # NaN: not below anything
    if most != -torch.inf and not bool(seen.any(-1).all()):  # what is added counts where there is nothing else
        return None
    return seen if _hidden_for_sure(p, most) else None


def over_seen_keys(p: Problem, compute: Callable[..., torch.Tensor]) -> torch.Tensor:
    """compute(q, k, v) over the keys that seen_keys() says, those of each batch item for itself where they differ; without a mask, over all; on a GPU
    compute(q, k, v, key_mask=those). An item that sees no key gives zeros, as in torch."""
    seen = seen_keys(p)
    if seen is not None and seen.is_cuda:
        return compute(p.q, p.k, p.v, key_mask=seen)
    if seen is None or bool(seen.all()):
        return compute(p.q, p.k, p.v)
    if bool((seen == seen[:1]).all()):
        return _over(p, slice(None), seen[0], compute)
    o = torch.empty_like(p.q)
    for item, row in enumerate(seen):
        o[item : item + 1] = _over(p, slice(item, item + 1), row, compute)
    return o


def _over(p: Problem, items: slice, seen: torch.Tensor, compute: Callable[..., torch.Tensor]) -> torch.Tensor:
    count = int(seen.sum())
    if count == 0:
        return torch.zeros_like(p.q[items])
    if bool(seen[:count].all()):
        k, v = (t[items].narrow(p.axis, 0, count) for t in (p.k, p.v))
    else:
        places = seen.nonzero()[:, 0]
        k, v = (t[items].index_select(p.axis, places) for t in (p.k, p.v))
    return compute(p.q[items], k, v)
