"""RMSNorm (Zhang and Sennrich, arXiv 1910.07467) and LayerNorm, computed in float32 whatever the types."""
import torch
import torch.nn.functional as F
from torch import nn

from ..utils.exception import ParametersInvalid, require


def layer_norm_float32(norm: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    """norm(x) with every step in float32 (or float64); the result stays in that type."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if p is None else p.to(wide) for p in (norm.weight, norm.bias))
    return F.layer_norm(x.to(wide), norm.normalized_shape, weight, bias, norm.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; x of 2 to 8 axes, the result in x's dtype. Parameter: weight [hidden_size]."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, hidden_states: torch.Tensor, if_fused: bool = True) -> torch.Tensor:
        """if_fused selects between kernels of Ascend cards and has no effect. Raises ParametersInvalid for other numbers of axes."""
        if not 2 <= hidden_states.dim() <= 8:
            raise ParametersInvalid(f"[RMSNorm] hidden_states must have 2 to 8 axes, got {hidden_states.dim()}")
        wide = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (normed * self.weight.to(wide.dtype)).to(hidden_states.dtype)


def fast_layernorm(norm: torch.nn.LayerNorm, x: torch.Tensor, impl_mode: int = 0, fused: bool = True) -> torch.Tensor:
    """norm(x) in x's dtype. impl_mode (0, 1; 2 for float16 only) and fused select between kernels of Ascend cards: they are checked and
    have no effect.

    Raises ParametersInvalid for what does not fit."""
    require("fast_layernorm", "norm", norm, nn.LayerNorm)
    require("fast_layernorm", "x", x, torch.Tensor)
    require("fast_layernorm", "fused", fused, bool)
    if impl_mode not in (0, 1, 2):
        raise ParametersInvalid(f"[fast_layernorm] impl_mode must be 0, 1 or 2, got {impl_mode!r}")
    if len(norm.normalized_shape) > x.dim():
        raise ParametersInvalid(f"[fast_layernorm] x must have the axes {list(norm.normalized_shape)}, got {list(x.shape)}")
    types = {t.dtype for t in (x, norm.weight, norm.bias) if t is not None}
    if impl_mode == 2 and types != {torch.float16}:
        raise ParametersInvalid(f"[fast_layernorm] impl_mode 2 takes float16 only, got {', '.join(sorted(map(str, types)))}")
    return layer_norm_float32(norm, x).to(x.dtype)
