"""Models that take all their weights from one GGUF file, or from the quantized checkpoint of another program: quantized layers as they are stored, everything else as floats."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from os import PathLike, fspath

import torch
from torch import nn

from . import _core
from ._arrays import from_core
from .layer_choice import Listed, plain, without_adapters
from .linear import QuantizedLinear

_SHOWN = 5


def is_weight_file(path: str | PathLike[str]) -> bool:
    """True for a file that `quantize` takes as weights of its own, not as a quantized pair."""
    return str(fspath(path)).lower().endswith((".gguf", ".safetensors", ".safetensors.index.json"))


def open_weights(model: nn.Module, path: str | PathLike[str]) -> _core.WeightFile:
    """The file under the names of the model's class. OSError, ValueError, NotImplementedError (a type of tensors that is not supported)."""
    file = _core.WeightFile.open(fspath(path), type(model).__name__)
    if not str(fspath(path)).lower().endswith(".gguf") and not file.program:
        raise ValueError(f"[quantize] {fspath(path)} is no quantized checkpoint: nothing in it says how its layers are quantized "
                         "(of a pair, name the description)")
    return file


def _first(what: str, names: list[str]) -> str:
    return f"; {len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}" if names else ""


def _is_unused(name: str, wanted: Collection[str]) -> bool:
    """diffusers makes a norm of queries for Wan's image-to-video models whose queries it does not project; files may lack it or not."""
    stem, found, _ = name.rpartition(".norm_added_q.")
    return bool(found) and f"{stem}.add_q_proj.weight" not in wanted


def check_all_there(model: nn.Module, file: _core.WeightFile) -> None:
    """ValueError unless the file holds the tensors of the model and no others."""
    wanted = without_adapters(model.state_dict(keep_vars=True))
    stored = set(file.names())
    missing = [name for name in wanted if name not in stored and not _is_unused(name, wanted)]
    unexpected = sorted(name for name in stored - wanted.keys() if not _is_unused(name, wanted))
    wrong = [f"{name} {file.shape(name)} instead of {list(tensor.shape)}" for name, tensor in wanted.items()
             if name in stored and not file.fits(name, list(tensor.shape))]
    codes = [f"{name} is {file.dtype(name)}" for name, tensor in wanted.items() if name in stored and _no_floats(file.dtype(name), tensor)]
    if missing or unexpected or wrong or codes:
        raise ValueError(f"[quantize] {file.path} does not fit {type(model).__name__}{_first('missing tensors', missing)}"
                         f"{_first('tensors of another shape', wrong)}{_first('unexpected tensors', unexpected)}"
                         f"{_first('tensors that must be f32, f16 or bf16', codes)}")


def read_layers(found: Listed, plan: _core.ModelPlan, file: _core.WeightFile) -> dict[int, QuantizedLinear]:
    """id of a module -> the layer that takes its place."""
    layers: dict[int, QuantizedLinear] = {}
    for decision in plan.decisions:
        module = found.modules[decision.module]
        if decision.quantizes and id(module) not in layers:
            layers[id(module)] = QuantizedLinear(file.read(plan, decision))
    return layers


def load_floats(model: nn.Module, file: _core.WeightFile, replaced: Mapping[int, QuantizedLinear]) -> None:
    """Fills the parameters and buffers that stay, in their own dtypes; those on the meta device become real ones."""
    stored = set(file.names())
    for prefix, module in model.named_modules():
        if id(module) in replaced:
            continue
        for own in (module._parameters, module._buffers):
            for key, old in own.items():
                name = plain(f"{prefix}.{key}".removeprefix("."))
                if old is None or key in module._non_persistent_buffers_set:
                    continue
                if name not in stored:
                    own[key] = nn.Parameter(torch.ones_like(old, device="cpu"), requires_grad=old.requires_grad) if old.is_meta else old
                    continue
                value = _tensor(file, name, old)
                if not old.is_meta:
                    with torch.no_grad():
                        old.copy_(value)
                elif own is module._parameters:
                    own[key] = nn.Parameter(value.clone(), requires_grad=old.requires_grad)
                else:
                    own[key] = value.clone()


def _no_floats(dtype: str, like: torch.Tensor) -> bool:
    """Codes of a layer that the file does not say is quantized: nothing tells what they mean."""
    return like.is_floating_point() and dtype not in ("f32", "f16", "bf16")


def _tensor(file: _core.WeightFile, name: str, like: torch.Tensor) -> torch.Tensor:
    dtype, array = file.tensor(name)
    value = from_core(array)
    if dtype == "bf16":
        value = value.view(torch.bfloat16)
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise ValueError(f"[quantize] {file.path}: {name} is not finite")
    return value.reshape(like.shape).to(like.dtype)
