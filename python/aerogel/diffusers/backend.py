"""The attention backend "aerogel" of diffusers: dense attention of any transformer, `model.set_attention_backend("aerogel")`, and the way in
which the attention of layers with something else to compute (attention/layers.py) gets there."""
from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers.models import attention_dispatch

from ..attention import layers
from ..attention.layers import Problem, attend
from .processors import fused

NAME = "aerogel"


def with_backend(processor: Any) -> Any:
    """A copy of a layer's processor that calls this backend, the fused one where there is one."""
    ours = fused(processor) or copy.copy(processor)
    ours._attention_backend = register()
    return ours


def compute_with(model: torch.nn.Module, name: str, module: torch.nn.Module, attention: Any) -> None:
    """Lets a layer of the model compute with its QuantizedAttention, whose processor calls diffusers' dispatcher or torch."""
    dispatches = hasattr(module.processor, "_attention_backend")
    if dispatches:
        module.processor = with_backend(module.processor)
    layers.compute_with(model, name, module, attention, catching=not dispatches)


def _backend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
             is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> torch.Tensor:
    return attend(Problem(query, key, value, "BSND", attn_mask, dropout_p, is_causal, scale, enable_gqa))


def register() -> attention_dispatch.AttentionBackendName:
    """Adds the backend to diffusers' dispatcher and returns its AttentionBackendName; again is harmless.

    The names are an Enum without a way to add one from outside, so the member is put into its tables, as other packages do
    (cache-dit). Raises NotImplementedError where this diffusers has other tables."""
    names = attention_dispatch.AttentionBackendName
    if NAME not in names._value2member_map_:
        member = str.__new__(names, NAME)
        member._name_, member._value_, member._sort_order_ = "AEROGEL", NAME, len(names)
        try:
            attention_dispatch._AttentionBackendRegistry.register(member)(_backend)
            names._member_map_["AEROGEL"] = names._value2member_map_[NAME] = member
            names._member_names_.append("AEROGEL")
        except AttributeError as error:
            raise NotImplementedError(f"[attention] this version of diffusers takes no further attention backend: {error}") from None
    return names(NAME)
