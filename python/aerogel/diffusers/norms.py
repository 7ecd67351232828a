"""RMSNorm (Zhang and Sennrich, arXiv 1910.07467) in one pass of the core, where PyTorch makes three."""
from __future__ import annotations

import torch
from diffusers.models.normalization import RMSNorm

from .. import _core
from .._arrays import empty, handed
from .._watching import unseen


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean of squares + epsilon) * weight over the last axis, whose rows are contiguous; computed in float32, rounded once."""
    x = x.detach()
    y = empty(x.shape, x)
    scales = None if weight is None else handed(weight.detach().flatten().float())
    _core.rms_norm(handed(x.flatten(0, -2)), handed(y.flatten(0, -2)), scales, epsilon)
    return y


class FusedRMSNorm(RMSNorm):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x, weight = hidden_states, self.weight
        fits = x.ndim > 1 and x.numel() > 0 and x.dtype in (torch.float32, torch.bfloat16) and x.stride(-1) == 1 and self.bias is None
        alike = weight is None or (weight.dtype == x.dtype and weight.is_cpu and weight.shape == x.shape[-1:])
        return rms_norm(x, weight, self.eps) if fits and alike and unseen(self, x) else super().forward(x)
