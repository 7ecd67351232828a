"""Quantization inside diffusers' from_pretrained and save_pretrained: AerogelConfig and the quantizer behind it.

The loader hands over one tensor after the other. A Linear is quantized when its last tensor is there and its float weight is let go,
so that a model never exists in float as a whole. A saved model holds the arrays of its layers under the names of state_dict, and its
config.json the scheme of each.
"""
from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from os import PathLike, fspath
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import nn

from .. import _core
from .._values import group, word
from ..attention.module import QuantizedAttention, hang, must_be_told, planned, why_no_attention
from ..layer_choice import listed, patterns_of, put, without_adapters
from ..linear import QuantizedLinear, place_of
from ..model_plan import LayerReport, OnlineQuantConfig, QuantizeReport, float_layer, plan_from_files, plan_in_memory
from .backend import compute_with
from .modules import FASTER, exchange, give_back

Parts: TypeAlias = Mapping[str, torch.Tensor]  # the tensors of one layer by their names in it


class QuantMethod(str, Enum):
    """Ours, beside diffusers' own QuantizationMethod, which is closed."""

    AEROGEL = "aerogel"


class AerogelConfig(QuantizationConfigMixin):
    """`quantization_config=` of diffusers' from_pretrained.

    scheme: one that needs no data, see `aerogel.schemes()`. include, exclude: patterns of layer names as in `aerogel.quantize`.
    fallback_layers: {pattern of names: scheme or "W16A16" for float}. group_size: columns that share a weight scale, 0 = the whole row,
    None = the scheme's default (64 for int4).
    description: a description file of `aerogel quantize` or msModelSlim (or its folder); its layers come from there, the rest from the
    float model, and scheme, fallback_layers and group_size are not used. layers: written by save_pretrained, {name: {"scheme",
    "group_size"}}; where it is given, nothing else is used. Raises ValueError for schemes that do not exist."""

    def __init__(self, scheme: str = "W8A8_DYNAMIC", *, include: str | Iterable[str] | None = None, exclude: str | Iterable[str] = (),
                 fallback_layers: dict[str, str] | None = None, group_size: int | None = None, description: str | PathLike[str] | None = None,
                 layers: dict[str, dict[str, Any]] | None = None, quant_method: str = QuantMethod.AEROGEL) -> None:
        if quant_method != QuantMethod.AEROGEL:
            raise ValueError(f"[quantize] quant_method must be {QuantMethod.AEROGEL.value!r}, got {quant_method!r}")
        self.quant_method = QuantMethod.AEROGEL
        self.scheme, self.group_size, self.layers = _core.scheme(word("quantize", "scheme", scheme)), group("quantize", group_size), layers
        if layers is not None and not (isinstance(layers, Mapping) and layers):
            raise ValueError(f"[quantize] layers must name the quantized layers, as save_pretrained writes them, got {layers!r}")
        self.include, self.exclude = patterns_of("quantize", include, exclude)
        self.description = None if description is None else fspath(description)
        self.fallback_layers = self.online({} if fallback_layers is None else fallback_layers).fallback_layers

    def online(self, fallback_layers: dict[str, str] | None = None) -> OnlineQuantConfig:
        """The same as an OnlineQuantConfig."""
        fallback_layers = self.fallback_layers if fallback_layers is None else fallback_layers
        return OnlineQuantConfig(self.scheme, fallback_layers=fallback_layers, group_size=self.group_size)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "quant_method": self.quant_method.value}

    def to_diff_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as repr() shows it; for the layers only their number."""
        shown = {name: value for name, value in self.to_dict().items() if value != getattr(_DEFAULTS, name)}
        return shown | ({"layers": len(self.layers)} if self.layers else {})


_DEFAULTS = AerogelConfig()


class _Expected(nn.Module):
    """Stands for a quantized layer of a saved model until its arrays have come. Its state_dict has their names; as attributes they are
    no tensors, because the loader would cast what comes to the dtype of one, but buffers to whoever asks by name (get_buffer)."""

    class Nothing:
        """What memory is reserved for."""

        def numel(self) -> int:
            return 0

    class Named(dict[str, Any]):
        """Empty, and has the names."""

        names: tuple[str, ...] = ()

        def __contains__(self, name: object) -> bool:
            return name in self.names

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = names
        for name in names:
            setattr(self, name, self.Nothing())
        announced = self.Named()
        announced.names = tuple(names)
        self.__dict__["_buffers"] = announced

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + name: torch.empty(0, device="meta") for name in self.names})


class AerogelQuantizer(DiffusersQuantizer):
    """What diffusers calls while it loads and saves a model with an AerogelConfig. `report` tells what became of each Linear."""

    use_keep_in_fp32_modules = True
    required_packages = ["accelerate"]
    supports_parallel_loading = False
    is_trainable = True  # adapters are
    is_compileable = True

    def __init__(self, quantization_config: AerogelConfig, **kwargs: Any) -> None:
        super().__init__(copy.deepcopy(quantization_config), **kwargs)  # it learns the layers, and the caller may use his own again
        self.report = QuantizeReport()
        self.attention_layers: list[str] = []  # whose attention is quantized, of the finished model
        self._keys: list[str] = []
        self._kept: dict[str, str] = {}
        self._attention: list[tuple[str, _core.ModuleDecision]] = []
        self._parts: dict[str, dict[str, Any]] = {}  # layer -> its tensors, None until they come
        self._make: dict[str, Callable[[Parts], QuantizedLinear]] = {}

    @property
    def is_serializable(self) -> bool:
        """Asked when a model is saved."""
        if names := self.attention_layers:
            warnings.warn(f"[quantize] the quantized attention of {len(names)} layers is not saved ({', '.join(names[:3])}"
                          f"{' ...' if names[3:] else ''}): quantize it again after loading", stacklevel=3)
        return True

    def get_state_dict_and_metadata(self, state_dict: dict[str, Any], safe_serialization: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """Called when a model is saved."""
        state = without_adapters(state_dict)
        if state.keys() != state_dict.keys():
            warnings.warn("[quantize] adapters are not saved with the model unless they are merged (fuse_lora): save_lora_weights writes them", stacklevel=3)
        return state, {}

    def validate_environment(self, *args: Any, device_map: Any = None, **kwargs: Any) -> None:
        devices = set(device_map.values() if isinstance(device_map, dict) else [])
        if unknown := [d for d in devices if d == "disk" or not isinstance(d, int) and torch.device(d).type not in ("cpu", "cuda")]:
            raise NotImplementedError(f"[quantize] layers run on the CPU or on NVIDIA GPUs, got {unknown[0]} in device_map={device_map}")

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: Any) -> list[str]:
        self._keys = loaded_keys
        return loaded_keys

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        config = self.quantization_config
        if config.layers is not None:
            return self._expect_saved(model, config.layers)
        found = listed(model, (nn.Linear,), why_no_attention)
        if config.description is not None:
            pair = _core.QuantizedPair.open(config.description, -1)
            plan = plan_from_files(found, pair, config.include, config.exclude)
        else:
            pair, plan = None, plan_in_memory(found, config.online(), config.include, config.exclude)
        for decision in plan.decisions:
            name = found.names[decision.module]
            if decision.is_attention:
                self._attention.append((name, decision))
            elif decision.quantizes:
                self._make[name] = partial(_in_memory, name, decision) if pair is None else partial(_from_files, plan, pair, decision)
            else:
                self._kept[name] = decision.why
        self._parts = {name: dict.fromkeys(dict(model.get_submodule(name).named_parameters())) for name in self._make}

    def _expect_saved(self, model: nn.Module, layers: Mapping[str, dict[str, Any]]) -> None:
        modules = dict(model.named_modules())
        for name, stored in layers.items():
            linear = modules.get(name)
            if not isinstance(linear, nn.Linear):
                raise ValueError(f"[quantize] config.json names a quantized layer '{name}': {type(model).__name__} has no such Linear")
            arrays = [key.rpartition(".")[2] for key in self._keys if key.rpartition(".")[0] == name]
            if not arrays:
                raise ValueError(f"[quantize] the files hold nothing of the quantized layer '{name}'")
            self._make[name], self._parts[name] = partial(_restored, name, stored, linear), dict.fromkeys(arrays)
            put(model, name, _Expected(arrays))

    def check_if_quantized_param(self, model: nn.Module, param_value: torch.Tensor, param_name: str, state_dict: Parts, **kwargs: Any) -> bool:
        return param_name.rpartition(".")[0] in self._parts

    def create_quantized_param(self, model: nn.Module, param_value: torch.Tensor, param_name: str, target_device: Any, state_dict: Parts,
                               *args: Any, **kwargs: Any) -> None:
        name, _, part = param_name.rpartition(".")
        self._parts[name][part] = state_dict[param_name]  # as it is in the file: param_value has been cast to the model's dtype
        if any(value is None for value in self._parts[name].values()):
            return
        parts = self._parts.pop(name)
        layer = self._make.pop(name)(parts)
        self.report.bytes_before += sum(p.numel() * p.element_size() for p in parts.values())
        self.report.bytes_after += layer.weight_bytes()
        put(model, name, layer.to(f"cuda:{target_device}" if isinstance(target_device, int) else target_device))

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        if self._parts:
            raise ValueError(f"[quantize] the files lack tensors of {len(self._parts)} layers: {', '.join(list(self._parts)[:3])} ...")
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                self.report.layers.append(LayerReport(name, module.scheme, "", module.group_size))
            elif isinstance(module, nn.Linear):
                self.report.layers.append(LayerReport(name, "FLOAT", self._kept.get(name, "")))
        for name, decision in self._attention:
            if decision.attention is None:
                self.report.attention_in_float[name] = decision.why
            else:
                module = model.get_submodule(name)
                attention = planned(decision).to(place_of(module))
                hang(module, attention)
                if must_be_told(module):
                    compute_with(model, name, module, attention)
                self.report.attention[name] = attention.format
        describe(model, self)
        return model

    def _dequantize(self, model: Any) -> Any:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, QuantizedLinear):
                put(model, name, as_linear(layer, model.dtype))
        give_back(model)
        if "peft" in sys.modules:
            from .. import lora

            lora.let_go(model)
        vars(model).pop("fuse_qkv_projections", None)
        model._internal_dict = FrozenDict({k: v for k, v in model.config.items() if k != "quantization_config"})
        return model


def describe(model: Any, quantizer: AerogelQuantizer | None = None) -> None:
    """Makes a model with QuantizedLinear layers known to diffusers as a quantized one, so that save_pretrained writes what from_pretrained
    needs; and exchanges what has a faster form (modules.py). `aerogel.quantize` does this by itself for diffusers' models; timestep policies and quantized attention are not saved."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    layers: dict[str, dict[str, Any]] = {n.removesuffix(".base_layer"): {"scheme": m.scheme, "group_size": m.group_size} for n, m in found.items()}
    quantizer = quantizer or AerogelQuantizer(AerogelConfig(next(iter(layers.values()))["scheme"]))
    quantizer.attention_layers = [n.rpartition(".")[0] for n, m in model.named_modules() if isinstance(m, QuantizedAttention)]
    quantizer.quantization_config.layers, quantizer.quantization_config.description = layers, None
    model.hf_quantizer, model.quantization_method = quantizer, QuantMethod.AEROGEL
    model.register_to_config(quantization_config=quantizer.quantization_config)
    if hasattr(model, "fuse_qkv_projections"):
        vars(model)["fuse_qkv_projections"] = _refuse_fusing
    exchange(model, FASTER)
    model.is_quantized = False  # diffusers then forbids .to(dtype); these layers take every float type, and the others may be cast


def _refuse_fusing(*args: Any, **kwargs: Any) -> None:
    """In place of fuse_qkv_projections, which would take the stored integers for weights."""
    raise NotImplementedError("[quantize] projections are fused from float weights: call fuse_qkv_projections before the model is quantized")


def as_linear(layer: QuantizedLinear, dtype: torch.dtype) -> nn.Linear:
    """The nn.Linear with the values that the quantized layer multiplies with."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias="bias" in dict(layer.named_buffers()), dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(layer.dequantized())
        if linear.bias is not None:
            linear.bias.copy_(layer.bias)
    return linear.to(place_of(layer)).requires_grad_(False)


def _in_memory(name: str, decision: _core.ModuleDecision, parts: Parts) -> QuantizedLinear:
    parts = {n: p if p.dtype in (torch.float32, torch.bfloat16, torch.float16) else p.float() for n, p in parts.items()}
    return float_layer(name, SimpleNamespace(weight=parts["weight"], bias=parts.get("bias")), decision)


def _from_files(plan: _core.ModelPlan, pair: _core.QuantizedPair, decision: _core.ModuleDecision, parts: Parts) -> QuantizedLinear:
    return QuantizedLinear(plan.read(pair, decision))


def _restored(name: str, stored: Mapping[str, Any], linear: nn.Linear, parts: Parts) -> QuantizedLinear:
    try:
        # Own memory: the file may be replaced while the model lives.
        arrays = {n: p.clone() for n, p in parts.items()}
        layer = QuantizedLinear.from_arrays(stored["scheme"], linear.in_features, arrays, group_size=stored["group_size"])
    except ValueError as error:
        raise ValueError(f"[quantize] {name}: {error}") from None
    if layer.out_features != linear.out_features:
        raise ValueError(f"[quantize] {name}: the model wants {linear.out_features} outputs, got {layer.out_features}")
    return layer
