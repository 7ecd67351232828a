"""quantize(model, ...): replaces the layers of a torch model in place, from files or in memory."""
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, Optional

import aerogel
import torch
from aerogel import _core
from aerogel.attention.module import FILE_TYPES
from aerogel.layer_choice import Listed, listed, matches, unwrapped
from aerogel.model_plan import plan_from_files, plan_in_memory
from aerogel.quantization import apply
from torch import nn

from ..utils.exception import ConfigError, ParametersInvalid, invalid_arguments
from .config import OnlineQuantConfig, QuantConfig, TimestepPolicyConfig, mxfp4_options
from .algorithms import FLOAT_NAMES, scheme_of_file

log = logging.getLogger("mindiesd")
_FIELDS = ("quant_des_path", "quant_algo", "quantized_layers", "exclude_layers", "dtype", "use_nz", "mxfp4_scale_alg", "mxfp4_dst_type_max")
_KEYWORDS = (*_FIELDS, "quant_config", "timestep_config", "timestep_policy", "map")


def _policy(kwargs: dict[str, Any]) -> Optional[aerogel.TimestepPolicyConfig]:
    given = [p for p in (kwargs.get("timestep_config"), kwargs.get("timestep_policy")) if p is not None]
    if len(given) == 2 and given[0] is not given[1]:
        raise ParametersInvalid("[quantize] timestep_config and timestep_policy mean the same: give one of them")
    if given and not isinstance(given[0], aerogel.TimestepPolicyConfig):
        raise ParametersInvalid(f"[quantize] timestep_config must be a TimestepPolicyConfig, got {type(given[0]).__name__}")
    return given[0] if given else None


def _check(model: object, online_config: object, quant_des_path: object, kwargs: dict[str, Any]) -> None:
    unknown = sorted(set(kwargs) - set(_KEYWORDS))
    if unknown:
        raise TypeError(f"quantize() got unexpected keyword arguments: {', '.join(unknown)}")
    if not isinstance(model, nn.Module):
        raise ParametersInvalid(f"[quantize] model must be an nn.Module, got {type(model).__name__}")
    if kwargs.get("dtype", torch.bfloat16) not in (torch.float16, torch.bfloat16):
        raise ParametersInvalid(f"[quantize] dtype must be torch.float16 or torch.bfloat16, got {kwargs['dtype']}")
    for name, value, kind in (("quant_config", kwargs.get("quant_config"), QuantConfig), ("online_config", online_config, OnlineQuantConfig)):
        if value is not None and not isinstance(value, kind):
            raise ParametersInvalid(f"[quantize] {name} must be {kind.__name__}, got {type(value).__name__}")
    if online_config is not None and (quant_des_path is not None or kwargs.get("quant_config") is not None):
        raise ParametersInvalid("[quantize] online_config excludes quant_des_path and quant_config")


def _names_of(name: str) -> tuple[str, ...]:
    """Under which names a description may list a module."""
    return (f"{name}.linear.weight", f"{name}.weight", name, f"{name}.fa_q.scale", f"{name}.quant_type")


def _chooser(config: QuantConfig, attention: bool) -> Callable[[str, str], str]:
    """(name, stored type) -> type to run it by, for the Linear layers or the attention of a description."""
    def wanted(name: str) -> Optional[str]:
        if config.quantized_layers is None:
            return config.quant_algo
        found = next((config.quantized_layers[key] for key in _names_of(name) if key in config.quantized_layers), None)
        return "NO_QUANT" if found is None else found.quant_algo or config.quant_algo

    def choose(name: str, stored: str) -> str:
        if any(key in (config.exclude_layers or ()) for key in _names_of(name)):
            return "FLOAT"
        algo = wanted(name)
        of_attention = algo in FILE_TYPES
        if algo is not None and of_attention != attention and algo not in FLOAT_NAMES:
            algo = None  # it speaks of the other kind
        if attention:
            return "FLOAT" if (algo or stored) in FLOAT_NAMES else str(algo or stored)
        return scheme_of_file(stored, algo)

    return choose


def _rank(path: str) -> int:
    """This process's rank where the description carries one ("..._0.json") and torch.distributed runs; else -1, the file as named."""
    digits = os.path.splitext(os.path.basename(path))[0].rpartition("_")[2].isdigit()
    running = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if digits and running else -1


def _listed(model: nn.Module, layer_classes: Optional[Iterable[type]]) -> Listed:
    """Any module may be attention here: its own forward calls what it gets."""
    return listed(model, (nn.Linear, aerogel.QuantizedLinear, *(layer_classes or ())), lambda module: "")


def _from_files(model: nn.Module, path: str, config: QuantConfig, layer_classes: Optional[Iterable[type]]) -> aerogel.QuantizeReport:
    policy, found = config.timestep_config or TimestepPolicyConfig(), _listed(model, layer_classes)
    pair = _core.QuantizedPair.open(path, _rank(path))
    of_linears, of_attention = _chooser(config, False), _chooser(config, True)

    def type_of(name: str, stored: str, attention: bool) -> str:
        return of_attention(name, stored) if attention else of_linears(name, stored)

    return apply(model, found, plan_from_files(found, pair, type_of=type_of), pair, policy=policy, mxfp4=mxfp4_options(config))


def _in_memory(model: nn.Module, config: OnlineQuantConfig, layer_classes: Optional[Iterable[type]]) -> aerogel.QuantizeReport:
    policy, found = config.timestep_config or TimestepPolicyConfig(), _listed(model, layer_classes)
    known, fallback = set(found.names), config.fallback_layers or {}
    first = sorted(fallback, key=lambda pattern: pattern not in known)  # a name comes before patterns
    used = {p: fallback[p].value for p in first if p in known or any(matches(name, p) for name in known)}
    online = aerogel.OnlineQuantConfig(config.quant_type.value, fallback_layers=used, fa_layers=config.fa_layers if config.fa_quant_type else None,
                                       fa_quant_type=config.fa_quant_type.value if config.fa_quant_type else None)
    return apply(model, found, plan_in_memory(found, online, include="*"), policy=policy, mxfp4=mxfp4_options(config))


@invalid_arguments
def quantize(model: nn.Module, quant_des_path: Optional[str | os.PathLike[str]] = None, online_config: Optional[OnlineQuantConfig] = None,
             **kwargs: Any) -> nn.Module:
    """Replaces layers of `model` in place and returns the model.

    quant_des_path: a description file of msModelSlim or `aerogel quantize`; its weights lie beside it. online_config: an OnlineQuantConfig
    instead, in memory. quant_config: a QuantConfig that may hold the path and overrides the description; the same fields may be given one
    by one. timestep_config (or timestep_policy): a TimestepPolicyConfig for layers that follow the sampling step; without one every step
    has the defaults. dtype: torch.bfloat16 or float16, checked; layers answer in the type of their input. use_nz: has no effect;
    mxfp4_scale_alg, mxfp4_dst_type_max: for attention in MXFP4, without effect on Linear layers; warnings say so once.
    map: further classes to treat as Linear layers. Attention that is named gets `layer.fa_quant`, or `layer.fa3` for calibrated int8.
    The logger "mindiesd" reports what was done (level INFO). On an error nothing is replaced. Raises ParametersInvalid,
    ConfigError, NotImplementedError for an algorithm that is not supported (with what to use), OSError for files."""
    _check(model, online_config, quant_des_path, kwargs)
    policy, layer_classes = _policy(kwargs), kwargs.get("map")
    inner = unwrapped(model)
    if online_config is not None:
        report = _in_memory(inner, online_config, layer_classes)
    else:
        config = kwargs.get("quant_config") or QuantConfig(**{name: kwargs[name] for name in _FIELDS if name in kwargs})
        if config.timestep_config is None:
            config.timestep_config = policy
        path = quant_des_path if quant_des_path is not None else config.quant_des_path
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path).strip():
            raise ConfigError(f"[quantize] quant_des_path must be the path of a description, got {path!r}")
        report = _from_files(inner, os.fspath(path), config, layer_classes)
    kept = report.attention_in_float
    log.info("%s; attention: %d quantized%s", report, len(report.attention), "".join(f", {name} float ({why})" for name, why in kept.items()))
    return model
