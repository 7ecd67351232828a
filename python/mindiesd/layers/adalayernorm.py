"""Adaptive LayerNorm (Peebles and Xie, arXiv 2212.09748): a LayerNorm scaled and shifted by the conditioning."""
import torch

from ..utils.exception import ParametersInvalid, require
from .norm import layer_norm_float32


def _modulation(name: str, tensor: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[B, H], [B, 1, H] or [B, S, H] as a float tensor that broadcasts over x [B, S, H]."""
    require("layernorm_scale_shift", name, tensor, torch.Tensor)
    wide = tensor[:, None] if tensor.dim() == 2 else tensor
    if wide.dim() != 3 or wide.shape[0] != x.shape[0] or wide.shape[1] not in (1, x.shape[1]) or wide.shape[2] != x.shape[2]:
        raise ParametersInvalid(f"[layernorm_scale_shift] {name} must be [B,H], [B,1,H] or [B,S,H] for x {list(x.shape)}, got "
                                f"{list(tensor.shape)}")
    return wide.float()


def layernorm_scale_shift(
    layernorm: torch.nn.LayerNorm,
    x: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    fused: bool = True) -> torch.Tensor:
    """layernorm(x) * (1 + scale) + shift, computed in float32, in x's dtype.

    x: [B, S, H]. scale, shift: [B, H], [B, 1, H] or [B, S, H]. fused selects between kernels of Ascend cards and has no effect. Raises
    ParametersInvalid for what does not fit."""
    require("layernorm_scale_shift", "layernorm", layernorm, torch.nn.LayerNorm)
    require("layernorm_scale_shift", "x", x, torch.Tensor)
    require("layernorm_scale_shift", "fused", fused, bool)
    if x.dim() != 3:
        raise ParametersInvalid(f"[layernorm_scale_shift] x must be [B,S,H], got {list(x.shape)}")
    scale, shift = _modulation("scale", scale, x), _modulation("shift", shift, x)
    return (layer_norm_float32(layernorm, x) * (1 + scale) + shift).to(x.dtype)
