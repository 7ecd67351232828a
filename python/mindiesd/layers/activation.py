"""Activation layers by name."""
from collections.abc import Callable

import torch
from torch import nn

from ..utils.exception import ParametersInvalid, require


class FastGELU(nn.Module):
    """x * sigmoid(1.702 x), the quick approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415)."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * torch.sigmoid(1.702 * hidden_states)


_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "swish": nn.SiLU, "silu": nn.SiLU, "mish": nn.Mish, "gelu": nn.GELU, "relu": nn.ReLU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"), "gelu-fast": FastGELU}


def get_activation_layer(act_type: str) -> nn.Module:
    """A module for "swish", "silu", "mish", "gelu", "relu", "gelu-tanh" or "gelu-fast", in any case. Raises ParametersInvalid otherwise."""
    require("get_activation_layer", "act_type", act_type, str)
    make = _LAYERS.get(act_type.lower())
    if make is None:
        raise ParametersInvalid(f"[get_activation_layer] act_type must be one of {', '.join(_LAYERS)}, got {act_type!r}")
    return make()
