"""Activation layers by name."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..utils.exception import ParametersInvalid, require


class GELU(nn.Module):
    """GELU (Hendrycks and Gimpel, arXiv 1606.08415) by its definition ("none"), by tanh, or "fast": x * sigmoid(1.702 x)."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Raises ParametersInvalid for another `approximate`."""
        if self.approximate == "fast":
            return hidden_states * torch.sigmoid(1.702 * hidden_states)
        if self.approximate not in ("none", "tanh"):
            raise ParametersInvalid(f"[GELU] approximate must be none, tanh or fast, got {self.approximate!r}")
        return F.gelu(hidden_states, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "swish": nn.SiLU, "silu": nn.SiLU, "mish": nn.Mish, "gelu": GELU, "relu": nn.ReLU,
    "gelu-tanh": lambda: GELU("tanh"), "gelu-fast": lambda: GELU("fast")}


def get_activation_layer(act_type: str) -> nn.Module:
    """A module for "swish", "silu", "mish", "gelu", "relu", "gelu-tanh" or "gelu-fast", in any case. Raises ParametersInvalid otherwise."""
    require("get_activation_layer", "act_type", act_type, str)
    make = _LAYERS.get(act_type.lower())
    if make is None:
        raise ParametersInvalid(f"[get_activation_layer] act_type must be one of {', '.join(_LAYERS)}, got {act_type!r}")
    return make()
