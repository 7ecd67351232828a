"""Rotary position embedding (Su et al., arXiv 2104.09864)."""
import torch

from ..utils.exception import ParametersInvalid, require

_MODES = ("rotated_half", "rotated_interleaved")


def _broadcast(name: str, table: torch.Tensor, x: torch.Tensor, head_first: bool) -> torch.Tensor:
    """[S, D], or 4 axes that broadcast over x, as 4 axes."""
    require("rotary_position_embedding", name, table, torch.Tensor)
    if table.dim() == 2:
        axis = 2 if head_first else 1
        wanted = (x.shape[axis], x.shape[3])
        if tuple(table.shape) != wanted:
            raise ParametersInvalid(f"[rotary_position_embedding] {name} must be {list(wanted)} for x {list(x.shape)} and head_first="
                                    f"{head_first}, got {list(table.shape)}")
        return table[None, None] if head_first else table[None, :, None]
    fits = table.dim() == 4 and table.shape[3] == x.shape[3] and all(t in (1, n) for t, n in zip(table.shape, x.shape, strict=True))
    if not fits:
        raise ParametersInvalid(f"[rotary_position_embedding] {name} must be [S,D] or broadcast over x {list(x.shape)}, got {list(table.shape)}")
    return table


def rotary_position_embedding(x: torch.Tensor,
                              cos: torch.Tensor,
                              sin: torch.Tensor,
                              rotated_mode: str = "rotated_half",
                              head_first: bool = False,
                              fused: bool = True) -> torch.Tensor:
    """x * cos + rotated(x) * sin in float32, in x's dtype.

    x: [B,N,S,D] (head_first), [B,S,N,D] or [S,B,N,D], D even. cos, sin: [S,D] (not for [S,B,N,D]), or 4 axes that broadcast; of one shape.
    rotated_mode: "rotated_half" pairs channel i with i + D/2, "rotated_interleaved" 2i with 2i + 1. fused selects between kernels of Ascend
    cards and has no effect. Raises ParametersInvalid for what does not fit."""
    op = "rotary_position_embedding"
    require(op, "x", x, torch.Tensor)
    require(op, "head_first", head_first, bool)
    require(op, "fused", fused, bool)
    if x.dim() != 4 or x.shape[3] % 2:
        raise ParametersInvalid(f"[{op}] x must have 4 axes and an even last one, got {list(x.shape)}")
    if rotated_mode not in _MODES:
        raise ParametersInvalid(f"[{op}] rotated_mode must be {' or '.join(_MODES)}, got {rotated_mode!r}")
    require(op, "cos", cos, torch.Tensor)
    require(op, "sin", sin, torch.Tensor)
    if cos.shape != sin.shape:
        raise ParametersInvalid(f"[{op}] cos and sin must have one shape, got {list(cos.shape)} and {list(sin.shape)}")
    cos, sin = _broadcast("cos", cos, x, head_first), _broadcast("sin", sin, x, head_first)
    wide = x.to(torch.promote_types(cos.dtype, torch.float32))
    if rotated_mode == "rotated_half":
        first, second = wide.chunk(2, dim=-1)
        rotated = torch.cat([-second, first], dim=-1)
    else:
        rotated = torch.stack([-wide[..., 1::2], wide[..., ::2]], dim=-1).flatten(-2)
    return (wide * cos + rotated * sin).to(x.dtype)
