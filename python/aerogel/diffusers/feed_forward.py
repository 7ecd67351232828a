"""The activation functions of diffusers' feed-forward layers in one pass of the core, which takes an eighth of PyTorch's time on CPUs."""
from __future__ import annotations

from typing import Any

import torch
from diffusers.models.activations import GEGLU, GELU, SwiGLU
from torch.nn.modules import module as all_modules

from .. import _core
from .._arrays import empty, handed
from .._watching import nobody_watches, transformed
from ..linear import QuantizedLinear


@torch.library.custom_op("aerogel::activation", mutates_args=())
def activation(x: torch.Tensor, function: str) -> torch.Tensor:
    """f(x) for float32 or bfloat16 on the CPU, computed in float32 and rounded once. f: gelu_tanh, gelu_erf (Hendrycks and Gimpel, arXiv
    1606.08415) or silu (Elfwing et al., arXiv 1702.03118). Raises ValueError for what does not fit."""
    x = x.detach().contiguous()
    y = empty(x.shape, x)
    _core.activation(function, handed(x), handed(y))
    return y


@torch.library.custom_op("aerogel::gated", mutates_args=())
def gated(gate: torch.Tensor, x: torch.Tensor, function: str) -> torch.Tensor:
    """f(gate) * x (gated linear units, Shazeer, arXiv 2002.05202), arrays of one shape; types and functions as of activation()."""
    rows = [side.detach() if side.stride(-1) == 1 else side.detach().contiguous() for side in (gate, x)]
    y = empty(x.shape, x)
    _core.gated(function, *(handed(side.flatten(0, -2)) for side in (*rows, y)))
    return y


@activation.register_fake
def _(x: torch.Tensor, function: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@gated.register_fake
def _(gate: torch.Tensor, x: torch.Tensor, function: str) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def fits(*arrays: torch.Tensor) -> bool:
    """Whether the core takes these, and nobody may want gradients."""
    first = arrays[0]
    alike = all(x.shape == first.shape and x.dtype == first.dtype and x.device.type == "cpu" for x in arrays)
    return alike and first.ndim > 1 and first.dtype in (torch.float32, torch.bfloat16) and not torch.is_grad_enabled() and not transformed()


def _only_here(layer: Any, y: torch.Tensor) -> bool:
    """Whether nobody but the caller has y, which the layer has just made."""
    hooked = all_modules._global_forward_hooks or layer._forward_hooks or "forward" in vars(layer)
    return type(layer) is QuantizedLinear and not hooked and nobody_watches(y) and y.is_contiguous()


class FusedGELU(GELU):
    """GELU in place of what its quantized layer has made."""

    def gelu(self, gate: torch.Tensor) -> torch.Tensor:
        function = {"tanh": "gelu_tanh", "none": "gelu_erf"}.get(self.approximate)
        if function is None or not fits(gate):
            return super().gelu(gate)
        if not _only_here(self.proj, gate):
            return torch.ops.aerogel.activation(gate, function)
        _core.activation(function, handed(gate), handed(gate))
        return gate


class FusedGEGLU(GEGLU):
    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs:
            return super().forward(hidden_states, *args, **kwargs)
        x, gate = self.proj(hidden_states).chunk(2, dim=-1)
        return torch.ops.aerogel.gated(gate, x, "gelu_erf") if fits(gate, x) else x * self.gelu(gate)


class FusedSwiGLU(SwiGLU):
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x, gate = self.proj(hidden_states).chunk(2, dim=-1)
        return torch.ops.aerogel.gated(gate, x, "silu") if fits(gate, x) else x * self.activation(gate)
