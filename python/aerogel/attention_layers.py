"""Quantized attention in the layers of a model: a layer of diffusers computes with it, another module finds it as `fa_quant`.

A layer of diffusers has a processor that calls diffusers' dispatcher or torch directly; a hook tells the call which layer runs
(attention_backend.py). Any other module must call its `fa_quant` itself, as models for MindIE SD do.
"""
from __future__ import annotations

import copy
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from .flash_attention import QuantizedAttention, attribute_of

_ATTRIBUTES = {"fa_quant", "fa3"}


def _mentions(code: CodeType) -> bool:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return not _ATTRIBUTES.isdisjoint((*code.co_names, *(c for c in code.co_consts if isinstance(c, str)))) or any(map(_mentions, inner))


def _calls_it(kind: type) -> bool:
    """Whether the code of a class speaks of `fa_quant` or `fa3`."""
    own = (function for base in kind.__mro__ if base not in (nn.Module, object) for function in vars(base).values())
    return any(isinstance(function, FunctionType) and _mentions(function.__code__) for function in own)


def why_no_attention(module: nn.Module) -> str:
    """Why a module cannot compute quantized attention; empty if it can."""
    if hasattr(module, "processor") or _calls_it(type(module)):
        return ""
    return f"{type(module).__name__} has no processor of diffusers and does not call its fa_quant"


def hang(name: str, module: nn.Module, attention: QuantizedAttention) -> None:
    """Sets the attention as the module's `fa_quant` (`fa3`), and lets a layer of diffusers compute with it."""
    setattr(module, attribute_of(attention), attention)
    if not hasattr(module, "processor"):
        return
    if (hung := vars(module).get("_aerogel_attention")) is not None:
        hung.attention = attention
        return
    from .attention_backend import QuantizedLayer, register
    from .fused_processors import fused

    layer = QuantizedLayer(name, module, attention)
    object.__setattr__(module, "_aerogel_attention", layer)
    if hasattr(module.processor, "_attention_backend"):
        processor: Any = module.processor
        module.processor = fused(processor) or copy.copy(processor)
        module.processor._attention_backend = register()
        module.register_forward_pre_hook(layer.enter, with_kwargs=True)
        module.register_forward_hook(layer.leave)
    else:
        module.register_forward_pre_hook(layer.enter_catching, with_kwargs=True)
        module.register_forward_hook(layer.leave_catching, always_call=True)
