"""LoRA adapters of peft on quantized layers: x W^T + b in the layer's format, plus scaling * B(A(x)) in float."""
from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from peft.tuners.lora import model as peft_model
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge

from .._loading import chosen_group_size
from ..linear import QuantizedLinear

if TYPE_CHECKING:
    from torch import nn


class LoraQuantizedLinear(Linear):
    """peft's Linear over a QuantizedLinear. merge() quantizes the sum of both weights anew, which costs accuracy; unmerge() puts the
    layer from before back, exactly. A scheme with calibrated ranges cannot be merged: ValueError."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, **kwargs: Any) -> None:
        if config.use_dora:
            raise ValueError("[lora] DoRA needs the float weight, which a quantized layer has not: set use_dora=False")
        super().__init__(base_layer, adapter_name, config=config, **kwargs)

    @property
    def lora_variants(self) -> dict[tuple[str, ...], None]:
        return {(): None}

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        return module.in_features, module.out_features

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        new = [n for n in check_adapters_to_merge(self, adapter_names) if n in self.lora_A]
        if not new:
            return
        base = self._before if self.merged else self.get_base_layer()
        weight, bias = base.dequantized(), dict(base.named_buffers()).get("bias")
        for name in [*self.merged_adapters, *new]:
            weight = weight + self.get_delta_weight(name).detach().float()
            if self.lora_bias[name]:
                bias = (0 if bias is None else bias) + self.lora_B[name].bias.detach().float() * self.scaling[name]
        merged = QuantizedLinear.from_linear(SimpleNamespace(weight=weight, bias=bias), base.scheme,
                                             group_size=chosen_group_size(base.weight_scale, base.group_size))
        object.__setattr__(self, "_before", base)  # not a submodule: state_dict holds what computes
        self.base_layer = merged
        self.merged_adapters.extend(new)

    def unmerge(self) -> None:
        if self.merged:
            self.base_layer = self._before
            object.__setattr__(self, "_before", None)
            self.merged_adapters.clear()


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
