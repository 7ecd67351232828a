"""What an algorithm quantizes, as flags: the description that scripts ask a configuration for. aerogel decides by schemes, not by these."""
from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag, auto
from typing import Any

from ..utils.exception import ParametersInvalid
from .algorithms import QuantAlgorithm


@dataclass
class QuantModeDescriptor:
    """The choices that make a QuantMode."""

    quantize_weights: bool = False
    quantize_activations: bool = False
    per_token: bool = False
    per_channel: bool = False
    per_group: bool = False
    use_int4_weights: bool = False
    use_fa_quant: bool = False


class QuantFlag(IntFlag):
    """One choice each; COUNT is the bit behind them."""

    FA_QUANT = auto()
    INT4_WEIGHTS = auto()
    INT8_WEIGHTS = auto()
    ACTIVATION = auto()
    PER_CHANNEL = auto()
    PER_TENSOR = auto()
    PER_TOKEN = auto()
    PER_GROUP = auto()
    COUNT = auto()
    WEIGHTS_AND_ACTIVATION = INT4_WEIGHTS | INT8_WEIGHTS | ACTIVATION
    VALID_FLAG = FA_QUANT | WEIGHTS_AND_ACTIVATION | PER_CHANNEL | PER_TENSOR | PER_TOKEN | PER_GROUP


def _flags(desc: QuantModeDescriptor) -> QuantFlag:
    weights = QuantFlag.INT4_WEIGHTS if desc.use_int4_weights else QuantFlag.INT8_WEIGHTS
    chosen = ((desc.quantize_weights, weights), (desc.quantize_activations, QuantFlag.ACTIVATION), (desc.per_channel, QuantFlag.PER_CHANNEL),
              (desc.per_token, QuantFlag.PER_TOKEN), (desc.per_group, QuantFlag.PER_GROUP), (desc.use_fa_quant, QuantFlag.FA_QUANT))
    found = QuantFlag(0)
    for wanted, flag in chosen:
        found |= flag if wanted else QuantFlag(0)
    return found


class QuantMode:
    """The flags of an algorithm, and questions about them."""

    def __init__(self, flag: QuantFlag | int = 0) -> None:
        self.flag = QuantFlag(flag)

    def __deepcopy__(self, memodict: Any = None) -> QuantMode:
        return self

    @staticmethod
    def from_descriptor(desc: QuantModeDescriptor) -> QuantMode:
        """Raises ParametersInvalid for activations without weights, and scales per token or channel without both."""
        both = desc.quantize_weights and desc.quantize_activations
        if desc.quantize_activations and not both:
            raise ParametersInvalid(f"[quant_mode] activations are quantized with the weights only, got {desc}")
        if (desc.per_token or desc.per_channel) and not both:
            raise ParametersInvalid(f"[quant_mode] per_token and per_channel need quantized weights and activations, got {desc}")
        return QuantMode(_flags(desc))

    @staticmethod
    def use_smooth_quant(per_token: bool = False, per_channel: bool = False) -> QuantMode:
        """Weights and activations in 8 bits."""
        return QuantMode.from_descriptor(QuantModeDescriptor(True, True, per_token, per_channel))

    @staticmethod
    def use_weight_only(use_int4_weights: bool = False, per_group: bool = False) -> QuantMode:
        """Weights alone."""
        return QuantMode.from_descriptor(QuantModeDescriptor(True, per_group=per_group, use_int4_weights=use_int4_weights))

    @staticmethod
    def from_quant_algo(quant_algo: QuantAlgorithm | None = None) -> QuantMode:
        """No flags for None and names that quantize nothing by themselves."""
        return _OF_ALGORITHM.get(quant_algo, QuantMode())

    def check_weight_int8_only(self) -> bool:
        return self._of_weights_and_activation() == QuantFlag.INT8_WEIGHTS

    def check_weight_int4_only(self) -> bool:
        return self._of_weights_and_activation() == QuantFlag.INT4_WEIGHTS

    def check_weight_only_mode(self) -> bool:
        return self.check_weight_int8_only() or self.check_weight_int4_only()

    def check_weight_int8_only_with_group(self) -> bool:
        return self.check_weight_int8_only() and self.contains_per_group_scale()

    def check_weight_int4_only_with_group(self) -> bool:
        return self.check_weight_int4_only() and self.contains_per_group_scale()

    def contains_activation_and_weight_quant(self) -> bool:
        return self._of_weights_and_activation() == QuantFlag.INT8_WEIGHTS | QuantFlag.ACTIVATION

    def contains_activation_or_weight_quant(self) -> bool:
        return self._any(QuantFlag.WEIGHTS_AND_ACTIVATION)

    def contains_weight_quantization(self) -> bool:
        return self._any(QuantFlag.INT4_WEIGHTS | QuantFlag.INT8_WEIGHTS)

    def contains_fa_quantization(self) -> bool:
        return self._any(QuantFlag.FA_QUANT)

    def contains_per_group_scale(self) -> bool:
        return self._any(QuantFlag.PER_GROUP)

    def contains_per_channel_scale(self) -> bool:
        return self._any(QuantFlag.PER_CHANNEL)

    def to_dict(self) -> dict[str, bool | str]:
        """What it comes to; weight_only_precision is "int4" unless the weights alone are int8."""
        return {"use_smooth_quant": self.contains_activation_and_weight_quant(), "use_weight_only": self.check_weight_only_mode(),
                "weight_only_precision": "int8" if self.check_weight_int8_only() else "int4"}

    def _of_weights_and_activation(self) -> QuantFlag:
        return self.flag & QuantFlag.WEIGHTS_AND_ACTIVATION

    def _any(self, bits: QuantFlag) -> bool:
        return bool(self.flag & bits)


def _modes() -> dict[QuantAlgorithm | None, QuantMode]:
    a, fine = QuantAlgorithm, QuantMode.use_smooth_quant(True, True)
    plain, channels, tokens = QuantMode.use_smooth_quant(), QuantMode.use_smooth_quant(False, True), QuantMode.use_smooth_quant(True)
    int4_groups, attention = QuantMode.use_weight_only(True, True), QuantMode(QuantFlag.FA_QUANT)
    modes = {
        QuantMode.use_weight_only(): (a.W8A16,), QuantMode.use_weight_only(True): (a.W4A16,),
        int4_groups: (a.W4A16_AWQ, a.W4A8_AWQ, a.W4A16_GPTQ), QuantMode.use_weight_only(False, True): (a.W8A16_GPTQ,),
        plain: (a.W8A8, a.W8A8_TIMESTEP, a.W8A8_DYNAMIC, a.W8A8_PER_TENSOR, a.W8A8_MXFP8, a.W4A4_MXFP4_SVD, a.W4A4_MXFP4_DUALSCALE),
        channels: (a.W8A8_PER_CHANNEL, a.W8A8_PER_CHANNEL_PER_TENSOR), tokens: (a.W8A8_PER_TENSOR_PER_TOKEN,),
        fine: (a.W4A4_DYNAMIC, a.W8A8_PER_CHANNEL_PER_TOKEN, a.W4A4_MXFP4_DYNAMIC), attention: (a.FP8_DYNAMIC, a.MXFP8_DYNAMIC, a.MXFP4_DYNAMIC)}
    return {algorithm: mode for mode, algorithms in modes.items() for algorithm in algorithms}


_OF_ALGORITHM = _modes()
