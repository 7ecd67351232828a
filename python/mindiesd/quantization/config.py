"""What to quantize and how: the configurations of MindIE SD, checked when they are made."""
import dataclasses
import warnings
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Dict, List, Optional, Self, Tuple

import aerogel
import torch
from aerogel.attention.arguments import mxfp4_scale
from aerogel.attention.module import FILE_TYPES

from ..utils.exception import ModelInitError, ParametersInvalid
from .algorithms import QuantAlgorithm, algorithm, require_online
from .quant_mode import QuantMode

_said: set[str] = set()


def say_once(what: str) -> None:
    """A warning about something that is accepted and has no effect, the first time only."""
    if what not in _said:
        _said.add(what)
        warnings.warn(f"[mindiesd] {what}", stacklevel=4)


class TimestepPolicyConfig(aerogel.TimestepPolicyConfig):
    """What timestep-aware layers do in which step; see `aerogel.TimestepPolicyConfig`."""

    def __init__(self, default_strategy: str = "dynamic", w4a4_default_strategy: str = "W4A4", fa_default_strategy: str = "MXFP4") -> None:
        super().__init__(default_strategy, w4a4_default_strategy, fa_default_strategy)

    def register(self, step_range: int | Iterable[int], strategy: str, target: str = "w4a4_linear") -> Self:
        """step_range: a step, a list or a range of steps, later calls win. strategy: "static" or "dynamic" (W8A8_TIMESTEP layers, whatever
        the target), "W4A4" or "W4A8"; for target "fa": "MXFP4", "FP8" or "FLOAT". Returns the policy. Raises ValueError otherwise, TypeError
        for steps that are no whole numbers."""
        if not isinstance(step_range, int):
            if isinstance(step_range, str) or not isinstance(step_range, Iterable):
                raise TypeError(f"[timestep] step_range must be a step, a list or a range of steps, got {step_range!r}")
            step_range = list(step_range)
            if not all(isinstance(step, int) for step in step_range):
                raise TypeError(f"[timestep] step_range must hold whole numbers, got {step_range!r}")
        by_name = target == "w4a4_linear" and strategy in ("static", "dynamic")
        return super().register(step_range, strategy, "linear" if by_name else target)

    def get_strategy(self, step: int | None, target: str = "w4a4_linear") -> str:
        """The strategy of a step; the target's default for None. Raises ParametersInvalid for what is no step."""
        if step is not None and not isinstance(step, int):
            raise ParametersInvalid(f"[timestep] step must be a whole number or None, got {step!r}")
        return super().get_strategy(step, target)


TimestepPolicyConfig._core_answers = True  # its get_strategy is the core's, with another default


def mxfp4_options(config: Any) -> dict[str, Any]:
    """mxfp4_scale_alg and mxfp4_dst_type_max of a configuration as QuantizedAttention takes them, empty for the default. Raises ValueError
    for what does not fit."""
    algorithm = getattr(config, "mxfp4_scale_alg", None)
    return mxfp4_scale("quantize", 0 if algorithm is None else algorithm, getattr(config, "mxfp4_dst_type_max", 7.25))


def _check_common(config: "QuantConfig | OnlineQuantConfig") -> None:
    """timestep_config and the options of MXFP4, the same in both configurations."""
    if config.timestep_config is not None and not isinstance(config.timestep_config, aerogel.TimestepPolicyConfig):
        raise ModelInitError(f"[quantize] timestep_config must be a TimestepPolicyConfig, got {type(config.timestep_config).__name__}")
    if config.mxfp4_dst_type_max is None:
        raise ModelInitError("[quantize] mxfp4_dst_type_max must be a number, got None")
    try:
        mxfp4_options(config)
    except ValueError as error:
        raise ModelInitError(str(error)) from None
    config.mxfp4_dst_type_max = float(config.mxfp4_dst_type_max)
    if config.mxfp4_scale_alg:
        say_once("mxfp4_scale_alg has no effect on Linear layers: their blocks of MXFP4 have the scale 2^(floor(log2 max) - 2) of the OCP "
                 "specification. Attention in MXFP4 uses it")


def _algorithm(name: str, value: Any) -> Any:
    try:
        return algorithm(value)
    except ValueError:
        raise ModelInitError(f"[quantize] {name} must be one of {', '.join(QuantAlgorithm)}, got {value!r}") from None


@dataclasses.dataclass
class QuantConfig:
    """How to read a description; the fields that are given override it.

    quant_algo: runs every layer of the description with this algorithm. quantized_layers: {name or tensor name: QuantConfig or dict with
    its quant_algo}, only these layers are quantized then. exclude_layers: names that stay float. dtype: checked; layers answer in the type
    of their input. use_nz (a layout of Ascend's memory): no effect. mxfp4_scale_alg (0, 2 or None = 0), mxfp4_dst_type_max (0 or 6 to 12):
    how attention in MXFP4 scales its blocks; no effect on Linear layers. Raises ModelInitError for what does not fit."""

    quant_des_path: Optional[str] = None
    quant_algo: Optional[QuantAlgorithm] = None
    quantized_layers: Optional[Dict[str, "QuantConfig"]] = None
    exclude_layers: Optional[Tuple[str, ...]] = None

    dtype: torch.dtype = torch.bfloat16
    use_nz: Optional[bool] = None
    timestep_config: Optional[TimestepPolicyConfig] = None

    mxfp4_scale_alg: Optional[int] = None
    mxfp4_dst_type_max: float = 7.25

    def __post_init__(self) -> None:
        self.quant_algo = _algorithm("quant_algo", self.quant_algo)
        if self.exclude_layers is not None:
            if not isinstance(self.exclude_layers, (list, tuple)) or not all(isinstance(n, str) for n in self.exclude_layers):
                raise ModelInitError(f"[quantize] exclude_layers must be a tuple of strings, got {self.exclude_layers!r}")
            self.exclude_layers = tuple(self.exclude_layers)
        if self.dtype not in (torch.float16, torch.bfloat16):
            raise ModelInitError(f"[quantize] dtype must be torch.float16 or torch.bfloat16, got {self.dtype}")
        if self.use_nz is not None and not isinstance(self.use_nz, bool):
            raise ModelInitError(f"[quantize] use_nz must be a bool, got {self.use_nz!r}")
        if self.use_nz:
            say_once("use_nz has no effect: it is a layout of Ascend's memory")
        _check_common(self)
        if self.quantized_layers is not None:
            self.quantized_layers = self._layers(self.quantized_layers)

    @classmethod
    def _layers(cls, layers: Any) -> Dict[str, "QuantConfig"]:
        if not isinstance(layers, dict):
            raise ModelInitError(f"[quantize] quantized_layers must be a dict, got {type(layers).__name__}")
        layers = {n: cls(**c) if isinstance(c, dict) else c for n, c in layers.items()}
        wrong = [n for n, c in layers.items() if not isinstance(n, str) or not isinstance(c, QuantConfig)]
        if wrong:
            raise ModelInitError(f"[quantize] quantized_layers must hold QuantConfigs by name; not so: {wrong[0]!r}")
        return layers

    @classmethod
    def parse_from_dict(cls, config: dict[str, Any]) -> Self:
        """The configuration whose fields these are."""
        return cls(**config)

    def serialize_to_dict(self) -> dict[str, Any]:
        """The fields by name, those of quantized_layers too; parse_from_dict takes them back."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.quantized_layers is not None:
            fields["quantized_layers"] = {name: layer.serialize_to_dict() for name, layer in self.quantized_layers.items()}
        return fields

    @cached_property
    def layer_quantization_mode(self) -> QuantMode | dict[str, QuantMode]:
        """The flags of quant_algo, or with quantized_layers those of each of them."""
        if self.quantized_layers is None:
            return QuantMode.from_quant_algo(self.quant_algo)
        return {name: QuantMode.from_quant_algo(layer.quant_algo) for name, layer in self.quantized_layers.items()}

    @cached_property
    def quant_algorithms_list(self) -> list[QuantAlgorithm | None]:
        """The algorithms of quantized_layers, each once."""
        return list(dict.fromkeys(layer.quant_algo for layer in (self.quantized_layers or {}).values()))


@dataclasses.dataclass
class LayerQuantConfig(QuantConfig):
    """A QuantConfig of single layers: quant_algo stands beside them and quantizes nothing by itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.auto_quant_mode = self.layer_quantization_mode

    @classmethod
    def _layers(cls, layers: Any) -> Dict[str, QuantConfig]:
        return QuantConfig._layers(layers)

    @cached_property
    def layer_quantization_mode(self) -> dict[str, QuantMode]:
        """The flags of each of quantized_layers."""
        return {name: QuantMode.from_quant_algo(layer.quant_algo) for name, layer in (self.quantized_layers or {}).items()}

    def serialize_to_dict(self) -> dict[str, Any]:
        """quant_algo and the fields of every layer but its exclude_layers."""
        layers = {name: layer.serialize_to_dict() for name, layer in (self.quantized_layers or {}).items()}
        return {"quant_algo": self.quant_algo,
                "quantized_layers": {name: {k: v for k, v in fields.items() if k != "exclude_layers"} for name, fields in layers.items()}}


@dataclasses.dataclass
class OnlineQuantConfig:
    """Quantizes a float model in memory, without files and without data: every nn.Linear.

    quant_type: any algorithm that needs no data (see docs/migration.md). fallback_layers: {name or pattern: algorithm}; W16A16 keeps a
    layer float, W8A8 is W8A8_DYNAMIC here. fa_layers, fa_quant_type: names or classes of attention modules that get `fa_quant`, and
    FP8_DYNAMIC, MXFP8_DYNAMIC or MXFP4_DYNAMIC. mxfp4_scale_alg, mxfp4_dst_type_max: of QuantConfig, for this attention only. Raises
    ModelInitError for what does not fit, NotImplementedError for algorithms that need data."""

    quant_type: QuantAlgorithm = QuantAlgorithm.W8A8_DYNAMIC
    fallback_layers: Optional[Dict[str, QuantAlgorithm]] = None
    fa_layers: Optional[Tuple[str, ...]] = None
    fa_quant_type: Optional[QuantAlgorithm] = None
    timestep_config: Optional[TimestepPolicyConfig] = None
    mxfp4_scale_alg: Optional[int] = None
    mxfp4_dst_type_max: float = 7.25
    fallback_timesteps: dataclasses.InitVar[Optional[List[int]]] = None

    def __post_init__(self, fallback_timesteps: Optional[List[int]]) -> None:
        if fallback_timesteps is not None:
            raise ModelInitError("[quantize] fallback_timesteps is gone: register the steps in a TimestepPolicyConfig, timestep_config=")
        self.quant_type = _algorithm("quant_type", self.quant_type)
        if self.quant_type is None:
            raise ModelInitError("[quantize] quant_type must be given, got None")
        require_online(self.quant_type)
        self.fa_layers = (self.fa_layers,) if isinstance(self.fa_layers, str) else tuple(self.fa_layers or ())
        self.fa_quant_type = _algorithm("fa_quant_type", self.fa_quant_type)
        if self.fa_quant_type is not None and self.fa_quant_type.value not in FILE_TYPES:
            raise ModelInitError(f"[quantize] fa_quant_type must be one of {', '.join(FILE_TYPES)}, got {self.fa_quant_type}")
        if self.fa_quant_type is not None and not self.fa_layers:
            raise ModelInitError("[quantize] fa_quant_type needs fa_layers: names or classes of the attention modules")
        _check_common(self)
        self.fallback_layers = {pattern: self._fallback(pattern, algo) for pattern, algo in (self.fallback_layers or {}).items()}

    @staticmethod
    def _fallback(pattern: str, algo: str) -> QuantAlgorithm:
        name = f"fallback_layers[{pattern!r}]"
        found: QuantAlgorithm | None = _algorithm(name, algo)
        if found is None:
            raise ModelInitError(f"[quantize] {name} must be an algorithm (W16A16 keeps a layer float), got None")
        if found.value not in ("W8A8", "W16A16"):
            require_online(found)
        return found

    @classmethod
    def parse_from_dict(cls, config: dict[str, Any]) -> Self:
        """The configuration whose fields these are."""
        return cls(**config)

    def serialize_to_dict(self) -> dict[str, Any]:
        """The fields that are set, algorithms by their names."""
        fields: dict[str, Any] = {"quant_type": self.quant_type.value,
                                  "fallback_layers": {pattern: algo.value for pattern, algo in (self.fallback_layers or {}).items()}}
        if self.fa_quant_type is not None:
            fields |= {"fa_quant_type": self.fa_quant_type.value, "fa_layers": list(self.fa_layers or ())}
        if self.timestep_config is not None:
            fields["timestep_config"] = self.timestep_config
        if self.mxfp4_scale_alg is not None:
            fields |= {"mxfp4_scale_alg": self.mxfp4_scale_alg, "mxfp4_dst_type_max": self.mxfp4_dst_type_max}
        return fields
