"""Modules of diffusers' models that a quantized model has in a faster form, with the same names and numbers: what takes time between the layers.

To add one, write it as a subclass of diffusers' class and add a row to FASTER.
"""
from __future__ import annotations

from collections.abc import Mapping

from diffusers.models.activations import GEGLU, GELU, SwiGLU
from torch import nn

from .feed_forward import FusedGEGLU, FusedGELU, FusedSwiGLU
from .patches import PatchEmbedding, cuts_into_patches

FASTER: dict[type[nn.Module], type[nn.Module]] = {GELU: FusedGELU, GEGLU: FusedGEGLU, SwiGLU: FusedSwiGLU, nn.Conv3d: PatchEmbedding}
try:
    from .image_feed_forward import IMAGE_ROWS
except ImportError:  # a diffusers without these models
    pass
else:
    FASTER |= IMAGE_ROWS


def hasten(model: nn.Module) -> None:
    """Exchanges the modules of a model that have a row, each for one in its very state. One whose forward somebody has replaced stays."""
    _exchange(model, FASTER)


def give_back(model: nn.Module) -> None:
    """Puts diffusers' own modules there again."""
    _exchange(model, {faster: plain for plain, faster in FASTER.items()})


def _exchange(model: nn.Module, rows: Mapping[type[nn.Module], type[nn.Module]]) -> None:
    for name, module in list(model.named_modules()):
        row = rows.get(type(module))
        if row is None or not name or "forward" in vars(module) or (isinstance(module, nn.Conv3d) and not cuts_into_patches(module)):
            continue
        new = object.__new__(row)
        vars(new).update(vars(module))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
