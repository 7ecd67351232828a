"""What the plan of a quantization must know of a torch model: its Linear layers and attention, and what would break if they were exchanged."""
from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from . import _core
from ._values import words
from .linear import QuantizedLinear

Classes: TypeAlias = tuple[type[nn.Module], ...]

# Modules of torch that read the weights of their Linears instead of calling them, always or on a fast path.
READ_BY = {nn.MultiheadAttention: ("out_proj",), nn.TransformerEncoderLayer: ("linear1", "linear2")}


def patterns_of(op: str, include: str | Iterable[str] | None, exclude: str | Iterable[str]) -> tuple[list[str] | None, list[str]]:
    """include (None: the default) and exclude as lists."""
    return None if include is None else words(op, "include", include), words(op, "exclude", exclude)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a torch.compile wrapper, which compiles anew when its layers are others. ValueError unless it is an nn.Module."""
    if not isinstance(model, nn.Module):
        within = next((name for name in ("transformer", "unet", "text_encoder") if isinstance(getattr(model, name, None), nn.Module)), None)
        raise ValueError(f"[quantize] the model must be an nn.Module, got {type(model).__name__}{f': give its .{within}' if within else ''}")
    return getattr(model, "_orig_mod", model)


def matches(name: str, pattern: str) -> bool:
    """True when the pattern is the name, or matches all of it with wildcards and braces, as in "blocks.{0,1}.*". ValueError on a brace that
    is not closed."""
    return name == pattern or _core.name_matches(pattern, name)


def linears_of(model: nn.Module, classes: Classes) -> dict[str, nn.Module]:
    """All modules of these classes, one that has several names under each. A layer below an adapter of peft has the name of the adapter's,
    which was its own before."""
    return {name.removesuffix(_BELOW): module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, classes)}


_BELOW = ".base_layer"  # where peft's layers of adapters keep the layer they adapt


def at(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name, below an adapter too."""
    module = model.get_submodule(name)
    below = getattr(module, "base_layer", None)
    return below if isinstance(below, nn.Module) else module


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """In the place of the layer of that name."""
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    there = getattr(holder, child)
    if at(model, name) is not there:
        holder, child = there, "base_layer"
    setattr(holder, child, layer)


def plain(name: str) -> str:
    """The name of a tensor as it would be without the adapters of peft."""
    return name.replace(f"{_BELOW}.", ".")


def without_adapters(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state_dict as it would be without the adapters of peft."""
    adapted = {name[: name.index(_BELOW + ".")] for name in state if _BELOW + "." in name}
    if not adapted:
        return dict(state)
    adapted_prefixes = tuple(f"{name}." for name in adapted)
    return {plain(name): value for name, value in state.items() if _BELOW + "." in name or not name.startswith(adapted_prefixes)}


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
    """id of a module -> which module of torch or peft reads its weight."""
    read = {id(getattr(parent, child)): f"torch's {kind.__name__} reads its weight instead of calling it"
            for parent in model.modules() for kind, children in READ_BY.items() if isinstance(parent, kind) for child in children}
    return read | {id(parent.base_layer): "an adapter of peft other than LoRA may read its weight: unload it first"
                   for parent in model.modules() if _may_read_below(parent)}


def _may_read_below(module: nn.Module) -> bool:
    """True for peft's adapters but LoRA, which adds its product to what the layer gives; DoRA reads the weight."""
    if "peft" not in sys.modules or not isinstance(getattr(module, "base_layer", None), nn.Module):
        return False
    from peft.tuners.lora import Linear

    return not isinstance(module, Linear) or bool(module.lora_variant)


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


@dataclass
class Listed:
    """The modules of a model as the plan sees them: `modules` are those of `core`, in its order."""

    core: _core.ModelModules
    modules: list[nn.Module]
    names: list[str]


def listed(model: nn.Module, classes: Classes, why_no_attention: Callable[[nn.Module], str] | None = None) -> Listed:
    """Every module of these classes, one that has several names under each; with why_no_attention (module -> why it cannot be quantized
    attention, or "") also every other module."""
    linears = linears_of(model, classes)
    blocks, lost = _repeated_blocks(model, linears.values()), unfit(model, linears, classes)
    # Models of diffusers and transformers name what must be float32: their code asks such a layer for the dtype of its weight.
    float32 = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    first: dict[int, int] = {}
    facts = []
    for index, (name, module) in enumerate(linears.items()):
        fact = _core.ModelModule(name, same_as=first.get(id(module), -1), unfit=lost.get(name, ""))
        first.setdefault(id(module), index)
        fact.out_features, fact.in_features = getattr(module, "out_features", 0), getattr(module, "in_features", 0)
        fact.in_block, fact.kept_float32 = name.startswith(blocks), bool(float32 & set(name.split(".")))
        if isinstance(module, QuantizedLinear):
            fact.scheme, fact.group_size = module.scheme, module.group_size
        facts.append(fact)
    names, modules = list(linears), list(linears.values())
    if why_no_attention is not None:
        others = {name: module for name, module in model.named_modules() if not isinstance(module, classes)}
        facts += [_attention_fact(name, module, why_no_attention(module)) for name, module in others.items()]
        names, modules = [*names, *others], [*modules, *others.values()]
    return Listed(_core.ModelModules(type(model).__name__, facts), modules, names)


def _attribute(module: nn.Module, name: str) -> Any:
    """None where there is none; not asked through __getattr__ of models, some of which warn."""
    own = name in vars(module) or name in module._modules or hasattr(type(module), name)
    return getattr(module, name, None) if own else None


def _number(module: nn.Module, *names: str) -> int:
    found = (_attribute(module, name) for name in names)
    return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), 0)


def _heads_of(module: nn.Module) -> int:
    return _number(module, "num_heads", "heads", "num_attention_heads")


def head_dim_of(module: nn.Module) -> int:
    """The size of the heads of an attention module by its attributes and projections; 0 where they do not say it."""
    heads = _heads_of(module)
    projection = next((p for p in (_attribute(module, n) for n in ("q_proj", "to_q", "q")) if p is not None), None)
    width = _number(module, "hidden_size", "inner_dim", "dim") or (_number(projection, "out_features") if projection is not None else 0)
    return _number(module, "head_dim") or (width // heads if heads and width % heads == 0 else 0)


def _attention_fact(name: str, module: nn.Module, unfit: str) -> _core.ModelModule:
    fact, kind = _core.ModelModule(name, is_attention=True, unfit=unfit), type(module)
    fact.classes = [kind.__name__, f"{kind.__module__}.{kind.__name__}"]
    fact.heads, fact.head_dim = _heads_of(module), head_dim_of(module)
    return fact


def chosen_linears(model: nn.Module, include: str | Iterable[str] | None = None, exclude: str | Iterable[str] = (),
                   classes: Classes = (nn.Linear,)) -> dict[str, nn.Module]:
    """name -> module of the float Linear layers that `quantize(model, scheme=...)` would take."""
    found = listed(model, classes)
    include, exclude = patterns_of("quantize", include, exclude)
    kept = dict(zip(found.names, _core.why_not_chosen(found.core, include=include, exclude=exclude)))
    lost = unfit(model, dict(zip(found.names, found.modules)), classes)
    left = {name: module for name, module in zip(found.names, found.modules) if not kept[name] and name not in lost}
    if not left:
        name, why = next(iter((lost | {n: w for n, w in kept.items() if w}).items()))
        raise ValueError(f"[quantize] no layer can be quantized; {name}: {why}")
    return left
