"""A quantization as it is asked for, planned and reported: what `aerogel.quantize` and the loader of diffusers' models share."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from . import _core
from ._loading import float_arrays
from .attention.arguments import mxfp4_scale
from .attention.module import FILE_TYPES
from ._values import group, word, words
from .layer_choice import Listed, patterns_of
from .linear import QuantizedLinear
from .timestep import TimestepPolicyConfig


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
    attention: dict[str, str] = field(default_factory=dict)  # module -> format of its quantized attention
    attention_in_float: dict[str, str] = field(default_factory=dict)  # module that was to have one -> why it has none

    @property
    def quantized(self) -> list[str]:
        """Names of the layers that were replaced."""
        return [layer.name for layer in self.layers if layer.scheme != "FLOAT"]

    def __str__(self) -> str:
        counts = Counter(f"{layer.scheme} in groups of {layer.group_size}" if layer.group_size else layer.scheme for layer in self.layers)
        parts = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
        heads = f", attention of {len(self.attention)} modules" if self.attention else ""
        heads += "".join(f", attention of {name} in float ({why})" for name, why in self.attention_in_float.items())
        return f"{parts}{heads}: {self.bytes_before / 1e6:.1f} MB -> {self.bytes_after / 1e6:.1f} MB"


@dataclass
class OnlineQuantConfig:
    """In-memory quantization of a float model, without files and without data (MindIE SD 3.1.0).

    quant_type: a scheme that needs no data, see `aerogel.schemes()`. fallback_layers: {pattern of whole names: scheme or "W16A16"};
    "W16A16" keeps a layer or an attention float, "W8A8" is W8A8_DYNAMIC, as there are no calibrated scales. group_size: columns that share
    a weight scale in the other layers, 0 = the whole row, None = the scheme's default (64 for int4). fa_layers: patterns of names or
    classes of attention modules that get a `QuantizedAttention` as `layer.fa_quant`, used by diffusers' layers and by modules whose own
    forward calls it; fa_quant_type: FP8_DYNAMIC, MXFP8_DYNAMIC, MXFP4_DYNAMIC or INT8_DYNAMIC. mxfp4_scale_alg,
    mxfp4_dst_type_max: of `quantized_attention`, for attention in MXFP4_DYNAMIC; None = 0. Linear layers always have the scales of the OCP
    specification. Raises ValueError for fa_layers without fa_quant_type or the reverse, and for values that do not fit."""

    quant_type: str = "W8A8_DYNAMIC"
    fallback_layers: dict[str, str] = field(default_factory=dict)
    fa_layers: str | Iterable[str] | None = None
    fa_quant_type: str | None = None
    timestep_config: TimestepPolicyConfig | None = None
    group_size: int | None = None
    mxfp4_scale_alg: int | None = None
    mxfp4_dst_type_max: float = 7.25

    def __post_init__(self) -> None:
        self.quant_type = _core.scheme(word("quantize", "scheme", self.quant_type))
        self.fallback_layers, self.group_size = _fallbacks(self.fallback_layers), group("quantize", self.group_size)
        self.fa_layers = words("quantize", "fa_layers", self.fa_layers) if self.fa_layers else None
        if (self.fa_layers is None) != (self.fa_quant_type is None):
            raise ValueError(f"[quantize] fa_layers and fa_quant_type go together, got {self.fa_layers!r} and {self.fa_quant_type!r}")
        if self.fa_quant_type is not None and self.fa_quant_type not in FILE_TYPES:
            raise ValueError(f"[quantize] fa_quant_type must be one of {', '.join(FILE_TYPES)}, got {self.fa_quant_type!r}")
        self._mxfp4()

    def _mxfp4(self) -> dict[str, Any]:
        """mxfp4_scale_alg and mxfp4_dst_type_max as a QuantizedAttention takes them; empty for the default."""
        return mxfp4_scale("quantize", 0 if self.mxfp4_scale_alg is None else self.mxfp4_scale_alg, self.mxfp4_dst_type_max)


def _fallbacks(layers: Any) -> dict[str, str]:
    if not isinstance(layers, Mapping):
        raise ValueError(f"[quantize] fallback_layers must be {{pattern: scheme}}, got {layers!r}")
    schemes = {word("quantize", "a pattern of fallback_layers", p): word("quantize", f"fallback_layers[{p!r}]", s) for p, s in layers.items()}
    return {pattern: s if s == "W16A16" else _core.scheme(s) for pattern, s in schemes.items()}


def plan_in_memory(found: Listed, config: OnlineQuantConfig, include: str | Iterable[str] | None = None,
                   exclude: str | Iterable[str] = ()) -> _core.ModelPlan:
    """What becomes of each module without files. Raises as `quantize`."""
    include, exclude = patterns_of("quantize", include, exclude)
    online = _core.OnlineQuantConfig(config.quant_type, fallback_layers=list(config.fallback_layers.items()), include=include, exclude=exclude,
                                     group_size=config.group_size, fa_quant_type=config.fa_quant_type or "", fa_layers=list(config.fa_layers or ()))
    return _core.plan_in_memory(found.core, online)


def plan_from_files(found: Listed, pair: _core.QuantizedPair, include: str | Iterable[str] | None = None, exclude: str | Iterable[str] = (),
                    type_of: Callable[[str, str, bool], str] | None = None) -> _core.ModelPlan:
    """What becomes of each module by a description. type_of: (name, stored type, whether it is attention) -> type. Raises as `quantize`."""
    include, exclude = patterns_of("quantize", include, exclude)
    return _core.plan_from_files(found.core, pair, include=include, exclude=exclude, type_of=type_of)


def plan_from_weights(found: Listed, file: _core.WeightFile, include: str | Iterable[str] | None = None, exclude: str | Iterable[str] = (),
                      type_of: Callable[[str, str, bool], str] | None = None) -> _core.ModelPlan:
    """What becomes of each Linear whose weights come from one file. type_of: (name, stored type, False) -> scheme. Raises as `quantize`."""
    include, exclude = patterns_of("quantize", include, exclude)
    return _core.plan_from_weights(found.core, file, include=include, exclude=exclude, type_of=type_of)


def float_layer(name: str, linear: nn.Module | SimpleNamespace, decision: _core.ModuleDecision) -> QuantizedLinear:
    """The layer that a plan makes of a float one, with its name in the error."""
    if isinstance(linear.weight, UninitializedParameter):
        raise ValueError(f"[quantize] {name} has no weights yet: run the model once")
    try:
        return QuantizedLinear(decision.quantize(*float_arrays(linear.weight, getattr(linear, "bias", None))))
    except (ValueError, NotImplementedError) as error:
        raise type(error)(f"[quantize] {name}: {error}") from None
