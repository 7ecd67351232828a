"""What to quantize and how: the configurations of MindIE SD, checked when they are made."""
import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, Dict, List, Optional, Self, Tuple

import aerogel
import torch
from aerogel.attention.module import FILE_TYPES

from ..utils.exception import ModelInitError
from .mode import QuantAlgorithm, algorithm, require_online

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
        the target), "W4A4" or "W4A8"; for target "fa": "MXFP4", "FP8" or "FLOAT". Returns the policy. Raises ValueError otherwise."""
        by_name = target == "w4a4_linear" and strategy in ("static", "dynamic")
        return super().register(step_range, strategy, "linear" if by_name else target)

    def get_strategy(self, step: int | None, target: str = "w4a4_linear") -> str:
        """The strategy of a step; the target's default for None."""
        return super().get_strategy(step, target)


TimestepPolicyConfig._core_answers = True  # its get_strategy is the core's, with another default


def _check_common(config: "QuantConfig | OnlineQuantConfig") -> None:
    """timestep_config and the options of MXFP4, the same in both configurations."""
    if config.timestep_config is not None and not isinstance(config.timestep_config, aerogel.TimestepPolicyConfig):
        raise ModelInitError(f"[quantize] timestep_config must be a TimestepPolicyConfig, got {type(config.timestep_config).__name__}")
    if config.mxfp4_scale_alg is not None and not isinstance(config.mxfp4_scale_alg, int):
        raise ModelInitError(f"[quantize] mxfp4_scale_alg must be an int or None, got {config.mxfp4_scale_alg!r}")
    if isinstance(config.mxfp4_dst_type_max, bool) or not isinstance(config.mxfp4_dst_type_max, (int, float)):
        raise ModelInitError(f"[quantize] mxfp4_dst_type_max must be a number, got {config.mxfp4_dst_type_max!r}")
    config.mxfp4_dst_type_max = float(config.mxfp4_dst_type_max)
    if config.mxfp4_scale_alg:
        say_once("mxfp4_scale_alg has no effect: blocks of MXFP4 have the scale 2^(floor(log2 max) - 2) of the OCP specification")


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
    of their input. use_nz (a layout of Ascend's memory): no effect. Raises ModelInitError for what does not fit."""

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


@dataclasses.dataclass
class OnlineQuantConfig:
    """Quantizes a float model in memory, without files and without data: every nn.Linear.

    quant_type: any algorithm that needs no data (see docs/migration.md). fallback_layers: {name or pattern: algorithm}; W16A16 keeps a
    layer float, W8A8 is W8A8_DYNAMIC here. fa_layers, fa_quant_type: names or classes of attention modules that get `fa_quant`, and
    FP8_DYNAMIC, MXFP8_DYNAMIC or MXFP4_DYNAMIC. Raises ModelInitError for what does not fit, NotImplementedError for algorithms that need
    data."""

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
