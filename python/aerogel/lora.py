"""LoRA adapters of peft on quantized layers: x W^T + b in the layer's format, plus scaling * B(A(x)) in float."""
from __future__ import annotations

import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from peft.tuners.lora import model as peft_model
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from ._loading import chosen_group_size
from .linear import QuantizedLinear, place_of

_BEGINNINGS = (True, False, "gaussian", "eva")  # of A and B, that do not look at the float weight


class LoraQuantizedLinear(Linear):
    """peft's Linear over a QuantizedLinear. merge() quantizes the sum of both weights anew, which costs accuracy; unmerge() puts the
    layer from before back, exactly. A scheme with calibrated ranges cannot be merged: ValueError."""

    _before: QuantizedLinear | None = None  # the layer without what was merged since it was quantized
    _within: tuple[str, ...] = ()  # adapters that had been merged when it was quantized

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: Any, **kwargs: Any) -> None:
        if config.use_dora:
            raise ValueError("[lora] DoRA needs the float weight, which a quantized layer has not: set use_dora=False")
        if config.init_lora_weights not in _BEGINNINGS:
            raise ValueError(f"[lora] init_lora_weights={config.init_lora_weights!r} needs the float weight, which a quantized layer has not: "
                             f"use one of {', '.join(map(repr, _BEGINNINGS))}")
        super().update_layer(adapter_name, r, lora_alpha, config=config, **kwargs)

    @property
    def lora_variants(self) -> dict[tuple[str, ...], None]:
        return {(): None}

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        return module.in_features, module.out_features

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        new = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.lora_A]
        if not new:
            return
        base = self.get_base_layer() if self._before is None else self._before
        merged = self._sum(base, [*[n for n in self.merged_adapters if n not in self._within], *new], 1)
        object.__setattr__(self, "_before", base)  # not a submodule: state_dict holds what computes
        self.base_layer = merged
        self.merged_adapters.extend(new)

    def unmerge(self) -> None:
        base = self.get_base_layer() if self._before is None else self._before
        if self._within:
            base = self._sum(base, self._within, -1)
        self.base_layer = base.to(place_of(self.get_base_layer()))
        object.__setattr__(self, "_before", None)
        self._within = ()
        self.merged_adapters.clear()

    def _sum(self, base: QuantizedLinear, adapters: Iterable[str], sign: int) -> QuantizedLinear:
        weight, bias = base.dequantized(), dict(base.named_buffers()).get("bias")
        for name in adapters:
            weight = weight + sign * self.get_delta_weight(name).detach().float()
            if self.lora_bias[name]:
                bias = (0 if bias is None else bias) + sign * self.lora_B[name].bias.detach().float() * self.scaling[name]
        try:
            return QuantizedLinear.from_linear(SimpleNamespace(weight=weight, bias=bias), base.scheme,
                                               group_size=chosen_group_size(base.weight_scale, base.group_size))
        except ValueError as error:
            raise ValueError(f"[lora] the sum of a {base.scheme} layer and {', '.join(adapters)} cannot be quantized: {error}") from None


def adopt(model: nn.Module) -> None:
    """peft's layers of adapters that came before the quantization learn what they stand on."""
    for module in model.modules():
        if type(module) is Linear and isinstance(module.base_layer, QuantizedLinear):
            module.__class__ = LoraQuantizedLinear
            module._within = tuple(module.merged_adapters)


def let_go(model: nn.Module) -> None:
    """The reverse, after the layers below have become float."""
    for module in model.modules():
        if type(module) is LoraQuantizedLinear and not isinstance(module.base_layer, QuantizedLinear):
            module.__class__ = Linear
            vars(module).pop("_before", None)
            vars(module).pop("_within", None)


def register() -> None:
    """Makes peft choose LoraQuantizedLinear for QuantizedLinear targets; again is harmless. peft lets a LoraConfig name custom layers,
    but the configurations that diffusers makes in load_lora_weights are out of reach, so the choice itself is extended."""
    original = peft_model.LoraModel._create_new_module
    if getattr(original, "knows_aerogel", False):
        return

    def create(lora_config: Any, adapter_name: str, target: nn.Module, **kwargs: Any) -> Any:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if isinstance(base, QuantizedLinear):
            kwargs.pop("parameter_name", None)
            return LoraQuantizedLinear(target, adapter_name, config=lora_config, **kwargs)
        return original(lora_config, adapter_name, target, **kwargs)

    setattr(create, "knows_aerogel", True)
    peft_model.LoraModel._create_new_module = staticmethod(create)
    if "diffusers" in sys.modules:
        _tell_flux()


def _tell_flux() -> None:
    """The loader of FLUX.1's pipelines compares LoRA with the shape of each stored weight, which is another one where values share a byte."""
    from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin

    original = FluxLoraLoaderMixin._calculate_module_shape

    def shape(model: nn.Module, base_module: nn.Module | None = None, base_weight_param_name: str | None = None) -> Any:
        module = base_module
        if module is None and base_weight_param_name is not None:
            module = model.get_submodule(base_weight_param_name.removesuffix(".weight"))
        if isinstance(module, QuantizedLinear):
            return torch.Size([module.out_features, module.in_features])
        return original(model, base_module, base_weight_param_name)

    FluxLoraLoaderMixin._calculate_module_shape = staticmethod(shape)
