"""What load_state_dict may put into a quantized layer: everything is checked before anything is written."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from . import _core
from ._arrays import from_core
from ._values import group, word
from ._devices import why_not_here
from ._packed import Layout, check

Arrays = Mapping[str, torch.Tensor]
_FROM_DATA = {array.name for array in _core.layer_arrays() if array.from_data}


def float_arrays(weight: Any, bias: Any) -> tuple[Any, Any]:
    """A float weight, and a bias or None, as the core takes them."""
    if weight.dtype == torch.float64:
        raise ValueError("[quantize] the weight must be float32, bfloat16 or float16, got float64: convert the model, whose inputs are float64 too")
    if why := why_not_here(weight):
        raise NotImplementedError(f"[quantize] the weight must be {why}")
    return weight.detach().cpu().contiguous(), None if bias is None else bias.detach().cpu().float().contiguous()


def from_float(weight: Any, bias: Any, scheme: str, group_size: int | None) -> _core.Linear:
    """A float weight, and a bias or None, quantized. ValueError for what is not finite or does not fit."""
    scheme, group_size = word("quantize", "scheme", scheme), group("quantize", group_size)
    weight = weight.float() if weight.dtype == torch.float64 else weight
    return _core.Linear.quantize(*float_arrays(weight, bias), scheme, group_size)


def chosen_group_size(weight_scale: torch.Tensor, group_size: int) -> int:
    """The group size to quantize anew with: that of MX formats, whose scales are bytes, is no choice."""
    return 0 if weight_scale.dtype == torch.uint8 else group_size


def _is_float_weight(array: Any) -> bool:
    return isinstance(array, torch.Tensor) and array.is_floating_point() and array.element_size() > 1


def _quantized(layout: Layout, given: Arrays, own: Arrays) -> dict[str, torch.Tensor]:
    weight, bias = given["weight"], given.get("bias")
    shape, derived = [len(own["weight"]), layout.in_features], [n for n in own if n in _FROM_DATA]
    if list(weight.shape) != shape:
        raise ValueError(f"[linear] weight must be float {shape} or the arrays of {layout.scheme}, got {weight.dtype} {list(weight.shape)}")
    if set(given) - {"weight", "bias"}:
        raise ValueError(f"[linear] a float weight comes alone or with a bias, got {', '.join(given)} as well")
    if derived:
        raise ValueError(f"[linear] {layout.scheme} with {', '.join(derived)} found from data cannot be made of a float weight: load its arrays")
    core = from_float(weight, bias if "bias" in own else None, layout.scheme, chosen_group_size(own["weight_scale"], layout.group_size))
    return {name: from_core(array) for name, array in core.arrays().items()}


def _typed(name: str, array: Any, own: torch.Tensor) -> torch.Tensor:
    if not isinstance(array, torch.Tensor) or why_not_here(array):
        raise ValueError(f"[linear] {name} must be a tensor on the CPU or a GPU, got {getattr(array, 'device', type(array).__name__)}")
    array = array.detach()
    if own.dtype == torch.uint8 and array.element_size() == 1 and array.is_floating_point():
        array = array.view(torch.uint8)  # 8-bit floats are kept as bytes
    if array.shape != own.shape:
        raise ValueError(f"[linear] {name} must be {list(own.shape)}, got {list(array.shape)}")
    if array.dtype != own.dtype and not (own.is_floating_point() and array.is_floating_point()):
        raise ValueError(f"[linear] {name} must be {own.dtype}, got {array.dtype}")
    return array.to(own.device, own.dtype)


def fitting(layout: Layout, given: Arrays, own: Arrays) -> dict[str, torch.Tensor]:
    """The arrays to write over those of a layer: all but the bias go together. given: from a state dict; a float weight is quantized.
    ValueError when they do not fit the layer or each other."""
    if _is_float_weight(given.get("weight")):
        given = _quantized(layout, given, own)
    given = {name: array for name, array in given.items() if name in own or name != "bias"}
    foreign, parts = [n for n in given if n not in own], [n for n in own if n != "bias"]
    missing = [n for n in parts if n not in given]
    if foreign:
        raise ValueError(f"[linear] this {layout.scheme} layer has no {', '.join(foreign)}: it was quantized in another way")
    if missing and len(missing) < len(parts):
        raise ValueError(f"[linear] the arrays of a layer go together, {', '.join(missing)} is missing")
    taken = {name: _typed(name, array, own[name]) for name, array in given.items()}
    if taken:
        check(layout, {**own, **taken})
    return taken
