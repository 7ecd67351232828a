"""quantize(model, ...): exchanges the Linear layers of a torch model for quantized ones, in place."""
from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from types import SimpleNamespace
from typing import TypeVar, cast

from torch import nn
from torch.nn.parameter import UninitializedParameter

from . import _core
from .flash_attention import FORMATS, QuantizedAttention
from .flash_attention import in_memory as attention_in_memory
from .layer_choice import Choice, Classes, as_list, linears_of, not_chosen, unfit, unwrapped
from .layer_names import matches
from .linear import QuantizedLinear
from .ranks import rank_of
from .timestep import TimestepPolicyConfig

WhatT = TypeVar("WhatT")


@dataclass
class LayerReport:
    """What became of one Linear; `why` tells why it stayed as it was. group_size: columns that share a weight scale, 0 = the whole row."""

    name: str
    scheme: str
    why: str = ""
    group_size: int = 0


@dataclass
class QuantizeReport:
    """Every Linear of the model in order, and the bytes of their weights before and after."""

    layers: list[LayerReport] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    attention: dict[str, str] = field(default_factory=dict)  # module -> format of its `fa_quant`

    @property
    def quantized(self) -> list[str]:
        """Names of the layers that were replaced."""
        return [layer.name for layer in self.layers if layer.scheme != "FLOAT"]

    def __str__(self) -> str:
        counts = Counter(f"{layer.scheme} in groups of {layer.group_size}" if layer.group_size else layer.scheme for layer in self.layers)
        parts = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        heads = f", attention of {len(self.attention)} modules" if self.attention else ""
        return f"{parts}{heads}: {self.bytes_before / 1e6:.1f} MB -> {self.bytes_after / 1e6:.1f} MB"


@dataclass
class OnlineQuantConfig:
    """In-memory quantization of a float model, without files and without data (MindIE SD 3.1.0).

    quant_type: a scheme without data, see `aerogel.schemes()`. fallback_layers: {pattern of whole names: scheme or "W16A16"}; "W16A16" keeps a
    layer float. group_size: columns that share a weight scale, 0 = the whole row, None = as the scheme has it (64 for int4). fa_layers: patterns of names or classes of attention modules
    that get a `QuantizedAttention` as `layer.fa_quant`, which their own forward must call; fa_quant_type: FP8_DYNAMIC, MXFP8_DYNAMIC or
    MXFP4_DYNAMIC. Raises ValueError for one without the other, and for other types."""

    quant_type: str = "W8A8_DYNAMIC"
    fallback_layers: dict[str, str] = field(default_factory=dict)
    fa_layers: str | Iterable[str] | None = None
    fa_quant_type: str | None = None
    timestep_config: TimestepPolicyConfig | None = None
    group_size: int | None = None
    mxfp4_scale_alg: object = None
    mxfp4_dst_type_max: float = 7.25

    def __post_init__(self) -> None:
        self.quant_type = _core.scheme(self.quant_type)
        self.fallback_layers = {p: s if s == "W16A16" else _core.scheme(s) for p, s in self.fallback_layers.items()}
        self.fa_layers = as_list(self.fa_layers) if self.fa_layers else None
        if (self.fa_layers is None) != (self.fa_quant_type is None):
            raise ValueError(f"[quantize] fa_layers and fa_quant_type go together, got {self.fa_layers!r} and {self.fa_quant_type!r}")
        if self.fa_quant_type is not None and self.fa_quant_type not in FORMATS:
            raise ValueError(f"[quantize] fa_quant_type must be one of {', '.join(FORMATS)}, got {self.fa_quant_type!r}")


def schemes() -> list[tuple[str, str, bool]]:
    """[(name, what it computes, whether it needs calibration)] of every scheme there is."""
    return _core.schemes()


def _bytes(module: nn.Module) -> int:
    if isinstance(module, QuantizedLinear):
        return module.weight_bytes()
    return sum(p.numel() * p.element_size() for p in module.parameters(recurse=False))


def _fallback(config: OnlineQuantConfig, name: str) -> str | None:
    return next((s for p, s in config.fallback_layers.items() if matches(name, p)), None)


def planned(model: nn.Module, choice: Choice, config: OnlineQuantConfig,
            classes: Classes = (nn.Linear,)) -> tuple[dict[str, str], dict[str, str]]:
    """({name: scheme} of the layers of these classes to quantize in memory, {name: why} of those that stay as they are). Raises ValueError
    when nothing is left to do of what was chosen."""
    linears = linears_of(model, classes)
    kept = not_chosen(model, linears, choice)
    fallback = {id(linears[n]): scheme for n in reversed(linears) if (scheme := _fallback(config, n))}
    chosen: dict[str, str] = {}
    lost = unfit(model, linears, classes)
    for name, linear in linears.items():
        scheme = fallback.get(id(linear), config.quant_type)
        if name in kept:
            kept[name] = "" if isinstance(linear, QuantizedLinear) else kept[name]
        elif scheme == "W16A16":
            kept[name] = "a fallback layer"
        elif isinstance(linear, QuantizedLinear):
            same = linear.scheme == scheme and config.group_size in (None, linear.group_size)
            kept[name] = "" if same else lost.setdefault(name, f"quantized before, as {linear.scheme}, and not anew as {scheme}")
        elif name in lost:
            kept[name] = lost[name]
        else:
            chosen[name] = scheme
    told = next((name for name in kept if name in lost and kept[name] == lost[name]), None)
    if told is not None and not chosen and config.fa_layers is None:
        raise ValueError(f"[quantize] no layer can be quantized; {told}: {lost[told]}")
    return chosen, kept


def quantized(name: str, linear: nn.Module | SimpleNamespace, scheme: str, group_size: int | None) -> QuantizedLinear:
    """QuantizedLinear.from_linear with the layer's name in the error."""
    if isinstance(linear.weight, UninitializedParameter):
        raise ValueError(f"[quantize] {name} has no weights yet: run the model once")
    try:
        return QuantizedLinear.from_linear(linear, scheme, group_size=group_size)
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"[quantize] {name}: {error}") from None


def read_layer(pair: _core.QuantizedPair, index: int, linear: nn.Module, scheme: str = "") -> QuantizedLinear:
    """Layer `index` of a pair of files, in place of this Linear of the model, run by another scheme where one is given. ValueError when
    their sizes differ."""
    layer = QuantizedLinear(pair.read(index, linear.in_features, scheme))
    if (layer.out_features, layer.in_features) != (linear.out_features, linear.in_features):
        prefix = pair.layers()[index][1]
        raise ValueError(f"[quantize] {pair.weights_path}: '{prefix}.weight' must be [{linear.out_features},{linear.in_features}] "
                         f"for this model, got [{layer.out_features},{layer.in_features}]")
    return layer


def planned_by_files(model: nn.Module, choice: Choice, pair: _core.QuantizedPair,
                     classes: Classes = (nn.Linear,)) -> tuple[dict[str, int], dict[str, str]]:
    """({name: index in the pair of files} of the layers to exchange, {name: why} of those that stay as they are)."""
    linears, (include, exclude) = linears_of(model, classes), choice
    kept = {} if include is None and not exclude else not_chosen(model, linears, (include or ["*"], exclude))
    kept = unfit(model, linears, classes) | kept
    chosen = {}
    for index, (name, _, _) in enumerate(pair.layers()):
        if name not in linears:
            raise ValueError(f"[quantize] {pair.path}: the model has no Linear '{name}' (of {len(linears)}: {', '.join(list(linears)[:3])} ...)")
        if name not in kept:
            chosen[name] = index
    for name in linears:
        if name not in chosen and name not in kept:
            kept[name] = "marked FLOAT" if pair.type_of(f"{name}.weight") == "FLOAT" else "not in the description"
    return chosen, kept


def _wanted_schemes(chosen: Iterable[str], pair: _core.QuantizedPair, scheme_of: Callable[[str, str], str] | None) -> dict[str, str]:
    """{name: what scheme_of says, "" for the description's own}."""
    stored = {name: kind for name, _, kind in pair.layers()}
    return {name: scheme_of(name, stored[name]) if scheme_of else "" for name in chosen}


def quantize(model: nn.Module, quant_des_path: str | PathLike[str] | None = None, online_config: OnlineQuantConfig | None = None, *,
             scheme: str | None = None, timestep_config: TimestepPolicyConfig | None = None,
             timestep_policy: TimestepPolicyConfig | None = None, map: Iterable[type] | None = None, include: str | Iterable[str] | None = None,
             exclude: str | Iterable[str] = (), rank: int | None = None, scheme_of: Callable[[str, str], str] | None = None) -> QuantizeReport:
    """Replaces Linear layers of `model` in place and returns a QuantizeReport. Give exactly one of:

    quant_des_path: a description file (or its folder) as `aerogel quantize` and msModelSlim write them;
    scheme: the name of a scheme that needs no data ("W8A8_DYNAMIC", "W8A16", see `schemes()`), quantized in memory;
    online_config: an OnlineQuantConfig, the same with more to choose.

    map: more classes to be taken for Linear layers (an iterable, or a dict whose keys are they). include, exclude: patterns of layer
    names ("blocks.*.ffn.*", braces allowed), exclude wins; in memory the default is every Linear inside the model's repeated blocks but
    modulation, norms and embeddings. timestep_config (or timestep_policy): a TimestepPolicyConfig for W8A8_TIMESTEP layers; with none
    every step is static. rank: the file of that rank, `_{rank}`; None: where files carry a rank, this process's in torch.distributed;
    -1: the file as it is named.
    scheme_of: with quant_des_path, a function (layer name, its scheme in the
    description) -> the scheme to run the stored arrays by (W8A8_TIMESTEP as W8A8_DYNAMIC, say), or "FLOAT".
    Nothing is replaced when anything is wrong. Raises ValueError (what does not fit), NotImplementedError (a scheme that is not there
    yet), OSError (files)."""
    given = [n for n, v in (("quant_des_path", quant_des_path), ("online_config", online_config), ("scheme", scheme)) if v is not None]
    if len(given) != 1:
        raise ValueError(f"[quantize] give exactly one of quant_des_path, online_config, scheme; got {', '.join(given) or 'none'}")
    if timestep_config is not None and timestep_policy is not None and timestep_config is not timestep_policy:
        raise ValueError("[quantize] timestep_config and timestep_policy mean the same: give one of them")
    policy = timestep_config if timestep_config is not None else timestep_policy
    classes = (nn.Linear, QuantizedLinear, *(map or ()))
    model = unwrapped(model)
    linears = linears_of(model, classes)
    choice = (as_list(include), as_list(exclude))
    attention: dict[str, QuantizedAttention] = {}
    if quant_des_path is not None:
        pair = _core.QuantizedPair.open(fspath(quant_des_path), rank_of(quant_des_path, rank))
        chosen, kept = planned_by_files(model, choice, pair, classes)
        wanted = _wanted_schemes(chosen, pair, scheme_of)
        kept |= {name: "chosen float by scheme_of" for name, asked in wanted.items() if asked == "FLOAT"}
        new = _made(linears, {n: i for n, i in chosen.items() if n not in kept}, lambda n, i: read_layer(pair, i, linears[n], wanted[n]))
    else:
        config = online_config or OnlineQuantConfig(cast(str, scheme))
        schemes_of, kept = planned(model, choice, config, classes)
        new = _made(linears, schemes_of, lambda n, own: quantized(n, linears[n], own, config.group_size))
        policy = policy or config.timestep_config
        if config.fa_layers is not None:
            attention = attention_in_memory(model, config.fa_layers, cast(str, config.fa_quant_type), policy=policy)
    for layer in new.values():
        layer.timestep_policy = policy
    report = _exchange(model, linears, new, kept)
    for name, module in attention.items():
        model.get_submodule(name).fa_quant = module
        report.attention[name] = module.format
    return report


def _made(linears: Mapping[str, nn.Module], wanted: Mapping[str, WhatT], make: Callable[[str, WhatT], QuantizedLinear]) -> dict[int, QuantizedLinear]:
    """id of the old module -> what takes its place, under all names of it."""
    new: dict[int, QuantizedLinear] = {}
    for name, what in wanted.items():
        if id(linears[name]) not in new:
            new[id(linears[name])] = make(name, what)
    return new


def _exchange(model: nn.Module, linears: Mapping[str, nn.Module], new: Mapping[int, QuantizedLinear], kept: Mapping[str, str]) -> QuantizeReport:
    report, seen = QuantizeReport(), set()
    for name, linear in linears.items():
        layer = new.get(id(linear), linear)
        if id(linear) not in seen:
            seen.add(id(linear))
            report.bytes_before += _bytes(linear)
            report.bytes_after += _bytes(layer)
        if isinstance(layer, QuantizedLinear):
            report.layers.append(LayerReport(name, layer.scheme, "" if layer is not linear else kept.get(name, ""), layer.group_size))
        else:
            report.layers.append(LayerReport(name, "FLOAT", kept.get(name, "")))
        if layer is not linear:
            _take_over(linear, layer)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    _tell_diffusers(model)
    return report


_HOOKS = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
          "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook")


def _take_over(linear: nn.Module, layer: nn.Module) -> None:
    """The mode of the old module, its own attributes and its hooks; their handles go on working, for the dictionaries are the same."""
    layer.train(linear.training)
    own = {name: value for name, value in vars(linear).items() if name in _HOOKS or name not in vars(layer)}
    vars(layer).update({name: value for name, value in own.items() if name not in ("forward", "_compiled_call_impl")})


def _tell_diffusers(model: nn.Module) -> None:
    """A model of diffusers learns that it is quantized: save_pretrained and LoRA adapters then work."""
    diffusers = sys.modules.get("diffusers")
    if diffusers is not None and isinstance(model, diffusers.ModelMixin):
        from . import diffusers as integration

        integration.describe(model)
