"""The convolution that cuts a video into tokens, as the matrix product that it is."""
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .._watching import transformed

_HALVES = (torch.bfloat16, torch.float16)


class PatchEmbedding(nn.Conv3d):
    """nn.Conv3d whose patches do not overlap. For 16-bit floats PyTorch has no fast one on CPUs without AVX-512: of a Wan with 4,096 tokens it
    takes 1.6 seconds of Zen 3. Here it is a product in float32, rounded once; all else is left to nn.Conv3d."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        halves = input.device.type == "cpu" and input.dtype == self.weight.dtype and input.dtype in _HALVES
        right = input.ndim == 5 and input.shape[1] == self.in_channels and all(n >= patch for n, patch in zip(input.shape[2:], self.kernel_size))
        if not halves or not right or torch.is_grad_enabled() or transformed():
            return super().forward(input)
        sizes = [size // patch for size, patch in zip(input.shape[2:], self.kernel_size)]
        whole = input[(..., *(slice(size * patch) for size, patch in zip(sizes, self.kernel_size)))]
        for axis, patch in zip((2, 4, 6), self.kernel_size):
            whole = whole.unflatten(axis, (-1, patch))
        patches = whole.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).float()
        bias = None if self.bias is None else self.bias.float()
        return F.linear(patches, self.weight.flatten(1).float(), bias).to(input.dtype).permute(0, 4, 1, 2, 3)


def cuts_into_patches(conv: nn.Conv3d) -> bool:
    return conv.kernel_size == conv.stride and conv.padding in ((0, 0, 0), "valid") and conv.dilation == (1, 1, 1) and conv.groups == 1
