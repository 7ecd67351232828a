"""The attention classes of MindIE SD, made from a prefix and weights (a mapping of tensors, or an open safetensors file)."""
from typing import Any

import torch
from aerogel import TimestepPolicyConfig
from aerogel.attention.module import QuantizedAttention

from ..utils.exception import ParametersInvalid
from .config import mxfp4_options


def _tensor(weights: Any, name: str, required: bool) -> torch.Tensor | None:
    if weights is None or name not in weights.keys():
        if required:
            raise ParametersInvalid(f"[fa_quant] {name} is missing")
        return None
    return weights.get_tensor(name) if hasattr(weights, "get_tensor") else weights[name]


class _Rotated(QuantizedAttention):
    FORMAT, REQUIRED = "fp8", True

    def __init__(self, prefix: str | None = None, weights: Any = None, policy: TimestepPolicyConfig | None = None,
                 **mxfp4: Any) -> None:
        q_rot, k_rot = (_tensor(weights, f"{prefix}.{part}_rot", self.REQUIRED) for part in "qk")
        if (q_rot is None) != (k_rot is None):
            raise ParametersInvalid(f"[fa_quant] {prefix}.q_rot and {prefix}.k_rot must be given together")
        super().__init__(self.FORMAT, q_rot=q_rot, k_rot=k_rot, policy=policy, **mxfp4)


class FP8RotateQuantFA(_Rotated):
    """q, k and v in E4M3 with a scale per 128 query and 256 key tokens; q_rot and k_rot are required."""

    def __init__(self, prefix: str | None = None, weights: Any = None) -> None:
        super().__init__(prefix, weights)


class MXFP8RotateQuantFA(_Rotated):
    """q, k and v in MXFP8; q_rot and k_rot are required."""

    FORMAT = "mxfp8"

    def __init__(self, prefix: str | None = None, weights: Any = None) -> None:
        super().__init__(prefix, weights)


class MXFP4QuantFA(_Rotated):
    """q, k and v in MXFP4, E4M3 or float by the step (timestep_config of quant_config); rotations are optional. quant_config may hold
    mxfp4_scale_alg and mxfp4_dst_type_max."""

    FORMAT, REQUIRED = "mxfp4", False

    def __init__(self, prefix: str | None = None, weights: Any = None, **kwargs: Any) -> None:
        config = kwargs.get("quant_config")
        super().__init__(prefix, weights, getattr(config, "timestep_config", None) or TimestepPolicyConfig(), **mxfp4_options(config))
