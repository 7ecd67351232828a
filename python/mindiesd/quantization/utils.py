"""TimestepManager with the parameter names of MindIE SD, and what its loaders ask of constructors, file names and weights."""
import os
from collections.abc import Iterable, Mapping
from inspect import Parameter, signature
from typing import Any, Optional

import aerogel
import torch
from aerogel import _core
from aerogel.layer_choice import head_dim_of, matches
from aerogel.timestep import step_count, step_index
from torch import nn

from ..utils.exception import ConfigError, ParametersInvalid


def extract_constructor_args(instance: object, base_class: Any = None) -> dict[str, Any]:
    """{parameter of __init__: the attribute of that name}, of the parameters that base_class has too."""
    kind: Any = type(instance)
    parameters = signature(kind.__init__).parameters
    own = [name for name, p in parameters.items() if p.kind is Parameter.POSITIONAL_OR_KEYWORD and name != "self"]
    known = set(own) if base_class is None else set(signature(base_class.__init__).parameters)
    return {name: getattr(instance, name) for name in own if name in known and hasattr(instance, name)}


def replace_rank_suffix(file_path: str) -> tuple[str, str, int]:
    """(path, file name, rank): digits behind the last underscore of the name become this process's rank; without such digits the path as it
    is, and -1. Raises ConfigError for digits where torch.distributed is not initialized."""
    folder, name = os.path.split(file_path)
    stem, extension = os.path.splitext(name)
    front, underscore, digits = stem.rpartition("_")
    if not underscore or not digits.isdigit():
        return file_path, name, -1
    if not torch.distributed.is_initialized():
        raise ConfigError(f"[quantize] {name} is of one rank among several: torch.distributed must be initialized")
    rank = torch.distributed.get_rank()
    name = f"{front}_{rank}{extension}"
    return os.path.join(folder, name), name, rank


def get_quant_weight(weights: Any, key: str) -> torch.Tensor:
    """The tensor of an open safetensors file, or of anything with keys() and get_tensor(). Raises ParametersInvalid when it has none of that
    name."""
    if key not in weights.keys():
        raise ParametersInvalid(f"[quantize] Critical parameter missing: {key}.")
    tensor: torch.Tensor = weights.get_tensor(key)
    return tensor


def match_layer_pattern(layer_name: str, pattern: str) -> bool:
    """Whether a pattern is the name, or matches all of it with wildcards and braces."""
    return matches(layer_name, pattern)


def match_layer_patterns(layer_name: str, layer_patterns: Optional[Iterable[str]]) -> bool:
    """Whether one of the patterns does."""
    return any(matches(layer_name, pattern) for pattern in layer_patterns or ())


def match_layer_config(layer_name: str, layer_config: Optional[Mapping[str, Any]]) -> Any:
    """The value of the name itself, else of the first pattern that matches it, else None."""
    config = layer_config or {}
    if layer_name in config:
        return config[layer_name]
    return next((value for pattern, value in config.items() if matches(layer_name, pattern)), None)


def match_fa_layer(name: str, layer: nn.Module, fa_layers: Optional[Iterable[str]]) -> bool:
    """Whether one of the patterns matches a module's name, its class, or its class with the Python module in front."""
    kind = type(layer)
    return any(match_layer_patterns(candidate, fa_layers) for candidate in (name, kind.__name__, f"{kind.__module__}.{kind.__name__}") if candidate)


def get_mxfp4_quant_kwargs(quant_config: Any = None) -> dict[str, Any]:
    """scale_alg and dst_type_max of a configuration that has an mxfp4_scale_alg, else nothing."""
    if getattr(quant_config, "mxfp4_scale_alg", None) is None:
        return {}
    return {"scale_alg": quant_config.mxfp4_scale_alg, "dst_type_max": getattr(quant_config, "mxfp4_dst_type_max", 7.25)}


class _Named(dict[str, torch.Tensor]):
    def get_tensor(self, key: str) -> torch.Tensor:
        return self[key]


def create_online_hadamard_rot(size: int, dtype: torch.dtype = torch.float32, seed: int = 1234, device: Any = None) -> torch.Tensor:
    """[size, size]: a Hadamard matrix with signs drawn from the seed. Raises ParametersInvalid unless size is a power of two."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size & (size - 1):
        raise ParametersInvalid(f"[quantize] the size of a rotation must be a power of two, got {size!r}")
    return torch.from_numpy(_core.hadamard_rotation(size, seed)).to(device=device, dtype=dtype)


def build_online_fa_rot_weights(prefix: str, layer: nn.Module, dtype: torch.dtype = torch.bfloat16, seed: int = 1234) -> _Named:
    """prefix.q_rot and prefix.k_rot for an attention module, as if they were read from a file."""
    size = head_dim_of(layer)
    if not size:
        raise ParametersInvalid(f"[quantize] {prefix}: the size of its heads is unknown")
    rotation = create_online_hadamard_rot(size, dtype, seed)
    return _Named({f"{prefix}.q_rot": rotation, f"{prefix}.k_rot": rotation.clone()})


def _whole(name: str, value: Optional[int], least: int) -> Optional[int]:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ParametersInvalid(f"[timestep] {name} must be a whole number from {least} on, or None, got {value!r}")
    return value


class TimestepManager(aerogel.TimestepManager):
    """The current sampling step, shared with `aerogel.TimestepManager`, held per thread and asyncio task. 0 .. max: a step equal to the
    maximum is taken, as MindIE SD takes it, and a lower maximum may be set while the last step of another video is still current."""

    @classmethod
    def set_timestep_idx(cls, cur_timestep: Optional[int]) -> None:
        """cur_timestep: 0 .. max, or None for "unknown". Raises ParametersInvalid when out of range."""
        index, limit = _whole("cur_timestep", cur_timestep, 0), step_count.get()
        if index is not None and limit is not None and index > limit:
            raise ParametersInvalid(f"[timestep] cur_timestep must not exceed the maximum of {limit}, got {index}")
        step_index.set(index)

    @classmethod
    def get_timestep_idx(cls) -> Optional[int]:
        """The current step, or None."""
        return aerogel.TimestepManager.get_timestep_idx()

    @classmethod
    def set_timestep_idx_max(cls, t_idx: Optional[int]) -> None:
        """t_idx: the number of sampling steps, or None for no limit. Raises ParametersInvalid when it is below 1."""
        step_count.set(_whole("t_idx", t_idx, 1))

    @classmethod
    def get_timestep_idx_max(cls) -> Optional[int]:
        """The number of sampling steps, or None."""
        return aerogel.TimestepManager.get_timestep_idx_max()
