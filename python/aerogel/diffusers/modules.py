"""Modules of diffusers' models in a faster form, with the same names, state and numbers: what PyTorch computes slowly on CPUs.

To add one, write it as a subclass of diffusers' class and add a row to FASTER, for every quantized model, or to CONVOLUTIONS.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from diffusers.models.activations import GEGLU, GELU, SwiGLU
from diffusers.models.normalization import RMSNorm
from torch import nn

from .feed_forward import FusedGEGLU, FusedGELU, FusedSwiGLU
from .norms import FusedRMSNorm
from .patches import PatchEmbedding, cuts_into_patches

Rows: TypeAlias = Mapping[type[nn.Module], type[nn.Module]]

FASTER: dict[type[nn.Module], type[nn.Module]] = {GELU: FusedGELU, GEGLU: FusedGEGLU, SwiGLU: FusedSwiGLU, RMSNorm: FusedRMSNorm, nn.Conv3d: PatchEmbedding}
CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {}


def forget(module: nn.Module) -> None:
    """Where there is nothing that was made of a module."""


try:
    from .image_feed_forward import IMAGE_ROWS
except ImportError:  # a diffusers without these models
    pass
else:
    FASTER |= IMAGE_ROWS
try:
    from .convolutions import CONVOLUTIONS, forget
except ImportError:
    pass


def hasten(model: nn.Module) -> list[str]:
    """Exchanges modules of a model of diffusers for faster ones on CPUs, in place, and returns their names: the convolutions of a VAE
    (AutoencoderKL, Wan's and Qwen-Image's; float32, bfloat16 or float16, computed in float32), norms of the last two in float32, RMSNorm, and
    activation functions. Names, state_dict() and results up to rounding stay; what convolutions give has its channels last. Calls that want
    gradients, are compiled, under autocast or on other devices go diffusers' way. A module whose forward somebody has replaced stays.
    `aerogel.diffusers.give_back(model)` undoes it. Raises ValueError for what is no model, or has nothing to exchange."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"[hasten] model must be a torch module (of a pipeline, give pipe.vae), got {type(model).__name__}")
    rows = {**FASTER, **CONVOLUTIONS}
    if not any(_has_row(module, rows) or type(module) in _plain() for module in model.modules()):
        names = ", ".join(sorted(row.__name__ for row in rows if row is not nn.Conv3d))
        raise ValueError(f"[hasten] {type(model).__name__} has none of: {names}, Conv3d whose stride is its kernel")
    return exchange(model, rows)


def give_back(model: nn.Module) -> None:
    """Gives all modules that `hasten` or `aerogel.quantize` has exchanged for faster ones their classes in diffusers again, and frees what was
    made for them. Quantized layers stay: `model.dequantize()` is for these, and calls this."""
    for module in model.modules():
        if type(module) in _plain():
            forget(module)
    exchange(model, _plain())


def _plain() -> Rows:
    return {faster: plain for plain, faster in {**FASTER, **CONVOLUTIONS}.items()}


def _has_row(module: nn.Module, rows: Rows) -> bool:
    return type(module) in rows and (type(module) is not nn.Conv3d or cuts_into_patches(module))


def exchange(model: nn.Module, rows: Rows) -> list[str]:
    """The names of the modules that had a row, and are of its class now."""
    names = []
    for name, module in model.named_modules():
        if _has_row(module, rows) and "forward" not in vars(module):
            module.__class__ = rows[type(module)]
            names.append(name)
    return names
