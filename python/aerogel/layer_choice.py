"""Which Linear layers of a torch model are quantized, and why the others stay float."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from . import _core
from .linear import QuantizedLinear

Choice: TypeAlias = tuple[Iterable[str] | None, Iterable[str]]  # patterns of layer names: (include, exclude)
Classes: TypeAlias = tuple[type[nn.Module], ...]
PatternsT = TypeVar("PatternsT")

# Small layers that the quality hangs on: modulation, guidance, embeddings and norms of the known diffusion transformers.
# Adapters (peft's lora_A, lora_B) are small too, and trained.
KEPT_FLOAT = ("*norm*", "*mod", "*mod.*", "*modulation*", "*film*", "*guidance*", "*embed*", "*adaln*", "*time*", "*lora_*")

# Modules of torch that read the weights of their Linears instead of calling them, always or on a fast path.
READ_BY = {nn.MultiheadAttention: ("out_proj",), nn.TransformerEncoderLayer: ("linear1", "linear2")}


def as_list(patterns: str | PatternsT) -> list[str] | PatternsT:
    return [patterns] if isinstance(patterns, str) else patterns


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a torch.compile wrapper, which compiles anew when its layers are others. ValueError unless it is an nn.Module."""
    if not isinstance(model, nn.Module):
        within = next((name for name in ("transformer", "unet", "text_encoder") if isinstance(getattr(model, name, None), nn.Module)), None)
        raise ValueError(f"[quantize] the model must be an nn.Module, got {type(model).__name__}{f': give its .{within}' if within else ''}")
    return getattr(model, "_orig_mod", model)


def linears_of(model: nn.Module, classes: Classes) -> dict[str, nn.Module]:
    """All modules of these classes, one that has several names under each."""
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, classes)}


def _repeated_blocks(model: nn.Module, linears: Iterable[nn.Module]) -> tuple[str, ...]:
    """Beginnings of names inside the repeated blocks of a transformer: modules of an nn.ModuleList with siblings of their class, or alone,
    that hold more than one Linear. One alone is a projection."""
    counted, found = {id(linear) for linear in linears}, []

    def is_block(module: nn.Module) -> bool:
        return not isinstance(module, nn.ModuleList) and sum(id(m) in counted for m in module.modules()) > 1

    for name, blocks in model.named_modules(remove_duplicate=False):
        if not isinstance(blocks, nn.ModuleList):
            continue
        kinds = Counter(type(block) for block in blocks)
        found += [f"{name}.{child}.".removeprefix(".") for child, block in blocks.named_children()
                  if is_block(block) and (kinds[type(block)] > 1 or len(blocks) == 1)]
    return tuple(found)


def _by_default(model: nn.Module, linears: Mapping[str, nn.Module]) -> dict[str, str]:
    """name -> why it stays float unless it is asked for."""
    blocks, kept = _repeated_blocks(model, linears.values()), {}
    for name in linears:
        if not name.startswith(blocks):
            kept[name] = "outside of the repeated blocks; include= chooses it"
        elif any(fnmatchcase(name.lower(), p) for p in KEPT_FLOAT):
            kept[name] = "small and sensitive; include= chooses it"
    return kept


def not_chosen(model: nn.Module, linears: Mapping[str, nn.Module], choice: Choice) -> dict[str, str]:
    """name -> why it stays float, for the layers not chosen. One with several names is chosen when one of them is, unless one is excluded."""
    include, exclude = choice[0], list(choice[1])
    if not linears:
        raise ValueError(f"[quantize] {type(model).__name__} has no Linear layers")
    if "" in linears:
        raise ValueError(f"[quantize] the model is a {type(model).__name__} itself, which has no place to be exchanged in: QuantizedLinear.from_linear "
                         "makes one of it")
    kept = _by_default(model, linears) if include is None else {}
    names = [n for n in linears if n not in kept]
    if not names:
        raise ValueError(f"[quantize] {type(model).__name__} has no Linear layers inside repeated blocks (several siblings of one class in an "
                         "nn.ModuleList): name the layers by include=['*']")
    chosen = set(_core.select_layers(list(linears), ["*"] if include is None else list(include), exclude)) - kept.keys()
    if not chosen:
        raise ValueError(f"[quantize] no layer is left to quantize: exclude {' '.join(exclude)} of {len(names)} Linear layers")
    excluded = {id(linears[n]) for n in (_core.select_layers(list(linears), exclude, []) if exclude else [])}
    together = {id(linears[n]) for n in chosen} - excluded
    left = "excluded" if include is None else "not chosen by include and exclude"
    kept = {n: kept.get(n, left) for n, module in linears.items() if id(module) not in together}
    # Models of diffusers and transformers name what must be float32: their code asks such a layer for the dtype of its weight.
    float32 = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return kept | {n: "the model keeps it in float32" for n in linears if n not in kept and float32 & set(n.split("."))}


def _why_unfit(module: nn.Module, told: Classes) -> str:
    """What a QuantizedLinear in place of this module would lose; empty if nothing. told: classes that the caller takes for Linear layers."""
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "torch's attention reads its weight instead of calling it"
    if not isinstance(module, told) and type(module).forward is not nn.Linear.forward:
        return f"{type(module).__name__} has a forward of its own; map= takes it for a Linear"
    if isinstance(module, told):
        return ""
    if "weight" not in module._parameters:
        return "its weight is computed (parametrized, normed or pruned): make it permanent first"
    if {*module._parameters, *module._buffers, *module._modules} - {"weight", "bias"}:
        return "it has parameters, buffers or modules beside weight and bias"
    if module.weight.layout is not torch.strided or type(module.weight) not in (nn.Parameter, nn.UninitializedParameter):
        return f"its weight is a {type(module.weight).__name__} of layout {module.weight.layout}, not a plain tensor"
    return ""


def _read_elsewhere(model: nn.Module) -> dict[int, str]:
    """id of a module -> which module of torch reads its weight."""
    return {id(getattr(parent, child)): f"torch's {kind.__name__} reads its weight instead of calling it"
            for parent in model.modules() for kind, children in READ_BY.items() if isinstance(parent, kind) for child in children}


def _tied(model: nn.Module, linears: Iterable[nn.Module]) -> dict[int, str]:
    """id of a parameter -> the name of a module that holds it and is none of the Linears."""
    known = {id(linear) for linear in linears}
    return {id(parameter): name for name, module in model.named_modules() if id(module) not in known
            for parameter in module.parameters(recurse=False)}


def unfit(model: nn.Module, linears: Mapping[str, nn.Module], classes: Classes) -> dict[str, str]:
    """name -> why a layer cannot be quantized without a loss that nobody would see. classes: that the caller takes for Linears."""
    told = tuple(c for c in classes if c is not nn.Linear)
    read, tied, found = _read_elsewhere(model), _tied(model, linears.values()), {}
    for name, module in linears.items():
        # Hooks that are taken off leave the bound method of the class behind.
        if vars(module).get("forward", module.forward) != type(module).forward.__get__(module):
            found[name] = "its forward has been exchanged, as accelerate's and offloading hooks do: take them off first"
            continue
        if isinstance(module, QuantizedLinear):
            continue
        why = read.get(id(module)) or _why_unfit(module, told)
        holder = tied.get(id(getattr(module, "weight", None)))
        if why or holder is not None:
            found[name] = why or f"it shares its weight with '{holder}'"
    return found


def chosen_linears(model: nn.Module, include: str | Iterable[str] | None = None, exclude: str | Iterable[str] = (),
                   classes: Classes = (nn.Linear,)) -> dict[str, nn.Module]:
    """name -> module of the float Linear layers that `quantize(model, scheme=...)` would take."""
    linears = linears_of(model, classes)
    kept = not_chosen(model, linears, (as_list(include), as_list(exclude)))
    lost = unfit(model, linears, classes)
    left = {name: module for name, module in linears.items() if name not in kept and name not in lost}
    if not left:
        name, why = next(iter((lost | kept).items()))
        raise ValueError(f"[quantize] no layer can be quantized; {name}: {why}")
    return left
