"""The gated units of Z-Image and FLUX.2."""
from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_flux2 import Flux2SwiGLU
from diffusers.models.transformers.transformer_z_image import FeedForward as ZImageFeedForward
from torch import nn

from .feed_forward import fits


class FusedFlux2SwiGLU(Flux2SwiGLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, values = x.chunk(2, dim=-1)
        return torch.ops.aerogel.gated(gate, values, "silu") if fits(gate, values) else super().forward(x)


class FusedZImageFeedForward(ZImageFeedForward):
    def _forward_silu_gating(self, x1: torch.Tensor, x3: torch.Tensor) -> torch.Tensor:
        return torch.ops.aerogel.gated(x1, x3, "silu") if fits(x1, x3) else super()._forward_silu_gating(x1, x3)


IMAGE_ROWS: dict[type[nn.Module], type[nn.Module]] = {Flux2SwiGLU: FusedFlux2SwiGLU, ZImageFeedForward: FusedZImageFeedForward}
