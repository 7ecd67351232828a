"""Modules of diffusers' models in a faster form, with the same names, state and numbers: what PyTorch computes slowly on CPUs.

To add one, write it as a subclass of diffusers' class and add a row to FASTER, for every quantized model, or to CONVOLUTIONS.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from diffusers.models.activations import GEGLU, GELU, SwiGLU
from torch import nn

from .feed_forward import FusedGEGLU, FusedGELU, FusedSwiGLU
from .patches import PatchEmbedding, cuts_into_patches

Rows: TypeAlias = Mapping[type[nn.Module], type[nn.Module]]

FASTER: dict[type[nn.Module], type[nn.Module]] = {GELU: FusedGELU, GEGLU: FusedGEGLU, SwiGLU: FusedSwiGLU, nn.Conv3d: PatchEmbedding}
CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {}
try:
    from .image_feed_forward import IMAGE_ROWS
except ImportError:  # a diffusers without these models
    pass
else:
    FASTER |= IMAGE_ROWS
try:
    from .convolutions import CONVOLUTIONS
except ImportError:
    pass


def hasten(model: nn.Module) -> list[str]:
    """Exchanges modules of a model of diffusers for faster ones on CPUs, in place, and returns their names: the convolutions of a VAE
    (AutoencoderKL, Wan's and Qwen-Image's; float32, bfloat16 or float16, computed in float32), norms of the last two, and activation functions.
    Names, state_dict() and results up to rounding stay. Calls that want gradients, are compiled, or are on other devices go diffusers' way. A
    module whose forward somebody has replaced stays. Raises ValueError for what is no model, or has nothing to exchange."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"[hasten] model must be a torch module (of a pipeline, give pipe.vae), got {type(model).__name__}")
    names = exchange(model, {**FASTER, **CONVOLUTIONS})
    if not names and not any(type(module) in _plain() for module in model.modules()):
        raise ValueError(f"[hasten] {type(model).__name__} has none of: {', '.join(sorted(row.__name__ for row in {**FASTER, **CONVOLUTIONS}))}")
    return names


def give_back(model: nn.Module) -> None:
    """Puts diffusers' own modules there again."""
    exchange(model, _plain())


def _plain() -> Rows:
    return {faster: plain for plain, faster in {**FASTER, **CONVOLUTIONS}.items()}


def exchange(model: nn.Module, rows: Rows) -> list[str]:
    """The names of the modules that had a row, and are of its class now, in their very state."""
    names = []
    for name, module in list(model.named_modules()):
        row = rows.get(type(module))
        if row is None or not name or "forward" in vars(module) or (type(module) is nn.Conv3d and not cuts_into_patches(module)):
            continue
        new = object.__new__(row)
        vars(new).update(vars(module))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
        names.append(name)
    return names
