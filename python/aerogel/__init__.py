"""Aerogel makes diffusion transformers light: quantized Linear layers and attention, sparse attention, on any x86-64 CPU and
on NVIDIA GPUs.

    import aerogel
    report = aerogel.quantize(pipe.transformer, scheme="W8A8_DYNAMIC")          # in memory, no files, no data
    report = aerogel.quantize(pipe.transformer, "quantized/quant_model_description_w8a8_dynamic.json")

    o = aerogel.sparse_attention(q, k, v, sparse_type="rf_v2", sparsity=0.8, latent_shape_q=(16, 16, 16))
    o = aerogel.attention(q, k, v)

The command is `aerogel` (or `python -m aerogel`); the C++ headers are in include/aerogel. Attention takes NumPy arrays and torch tensors;
everything about models needs torch and is loaded when first used.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import num_threads, set_num_threads
from ._core import version as __version__
from .attention import attention, quantized_attention, sparse_attention
from .calibration import Calibration, calibrate
from .exporting import ExportReport, export
from .reports import Comparison, InspectReport, compare, inspect
from .timestep import TimestepManager, TimestepPolicyConfig, timestep_callback

if TYPE_CHECKING:
    from .attention.module import QuantizedAttention
    from .diffusers import AerogelConfig, enable_sparse_attention, hasten
    from .linear import QuantizedLinear
    from .model_plan import OnlineQuantConfig, QuantizeReport
    from .quantization import quantize, schemes
    from .tuning import TuneReport, tune

_WITH_TORCH = {"quantize": "quantization", "OnlineQuantConfig": "model_plan", "QuantizeReport": "model_plan", "schemes": "quantization",
               "QuantizedLinear": "linear", "QuantizedAttention": "attention.module", "AerogelConfig": "diffusers",
               "enable_sparse_attention": "diffusers", "hasten": "diffusers", "tune": "tuning", "TuneReport": "tuning"}
__all__ = ["attention", "quantized_attention", "sparse_attention", "inspect", "InspectReport", "compare", "Comparison", "export", "ExportReport",
           "calibrate", "Calibration", "num_threads", "set_num_threads", "TimestepManager", "TimestepPolicyConfig", "quantize",
           "OnlineQuantConfig", "QuantizeReport", "schemes", "QuantizedLinear", "QuantizedAttention", "timestep_callback", "AerogelConfig",
           "enable_sparse_attention", "hasten", "tune", "TuneReport"]  # written out: type checkers read nothing else


if not TYPE_CHECKING:  # type checkers would take any name at all for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _WITH_TORCH:
            raise AttributeError(f"module 'aerogel' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f".{_WITH_TORCH[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
