"""The attention backend "aerogel" of diffusers: dense attention of any transformer, `model.set_attention_backend("aerogel")`, and the way in
which the attention of layers with something else to compute (attention/layers.py) gets there."""
from __future__ import annotations

import copy
import logging
from functools import wraps
from typing import Any

import torch
from diffusers.models import ModelMixin, attention_dispatch
from torch.nn.attention.flex_attention import BlockMask

from ..attention import attention, layers
from ..attention.layers import attend, attend_part
from ..attention.module import TORCH, speaks_of
from ..attention.problem import Problem
from .processors import fused

_log = logging.getLogger("aerogel")
NAME = "aerogel"


def with_backend(processor: Any) -> Any:
    """A copy of a layer's processor that calls this backend, the fused one where there is one."""
    ours = fused(processor) or copy.copy(processor)
    ours._attention_backend = register()
    return ours


def compute_with(model: torch.nn.Module, name: str, module: torch.nn.Module, attention: Any) -> None:
    """Lets a layer of the model compute with its QuantizedAttention; it or its processor calls diffusers' dispatcher or torch."""
    dispatches = hasattr(getattr(module, "processor", None), "_attention_backend")
    if dispatches:
        module.processor = with_backend(module.processor)
    layers.compute_with(model, name, module, attention, catching=not dispatches)


def _one_process(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *given: Any, **options: Any) -> Any:
    """What one process computes of context parallel attention: some heads over all tokens (Ulysses), or its queries over the keys of one process,
    with their log-sum-exp [batch, tokens, heads] (ring). given: attn_mask, dropout_p, is_causal, scale, enable_gqa, return_lse. Raises
    NotImplementedError for a mask in a ring: it is of the keys that a process had at first, and each gets those of the others."""
    if given[0] is not None and options["_parallel_config"].context_parallel_config.ring_degree > 1:
        raise NotImplementedError("[attention] ring attention takes no attention mask here: use Ulysses (ulysses_degree)")
    p = Problem(query, key, value, "BSND", *given[:5])
    p.gathered = True
    if not given[5]:
        return attend(p)
    o, lse = attend_part(p)
    return o, lse.transpose(1, 2)


def _no_gradients(*args: Any, **options: Any) -> Any:
    raise NotImplementedError("[attention] gradients do not flow through context parallel attention of Aerogel: use the backend \"native\" (Ulysses)")


def _blocks(mask: Any) -> dict[str, Any]:
    """What attention() needs of a BlockMask of torch's flex_attention, as Kandinsky 5 makes them (NABLA)."""
    if mask.kv_num_blocks.any():
        raise NotImplementedError("[attention] a BlockMask whose mask_mod hides single tokens is not supported: give whole blocks")
    return {"mask": mask.to_dense() != 0, "block_size": tuple(mask.BLOCK_SIZE)}


def _backend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
             is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False, return_lse: bool = False, _parallel_config: Any = None) -> Any:
    if isinstance(attn_mask, BlockMask):
        if _parallel_config is not None or return_lse or is_causal or dropout_p:
            raise NotImplementedError("[attention] a BlockMask goes with nothing else here")
        if (layer := layers.running.get()) is not None:
            layer.stays("the model has chosen the blocks itself (BlockMask)")
        return attention(query, key, value, input_layout="BSND", scale=scale, **_blocks(attn_mask))
    if _parallel_config is not None:
        return attention_dispatch._templated_context_parallel_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, return_lse, forward_op=_one_process, backward_op=_no_gradients,
            _parallel_config=_parallel_config)
    if return_lse:
        o, lse = attend_part(Problem(query, key, value, "BSND", attn_mask, dropout_p, is_causal, scale, enable_gqa))
        return o, lse.transpose(1, 2)
    return attend(Problem(query, key, value, "BSND", attn_mask, dropout_p, is_causal, scale, enable_gqa))


def _without_reach(model: torch.nn.Module) -> tuple[int, int, dict[str, bool]]:
    """(attention layers, those that no backend reaches, {the names of their processors: whether these call torch's attention})."""
    processors = [p for m in model.modules() if callable(p := getattr(m, "processor", None))]
    missed = [p for p in processors if not hasattr(p, "_attention_backend") and not speaks_of(type(p), {"dispatch_attention_fn"})]
    if not processors and not any(speaks_of(type(m), {"dispatch_attention_fn"}) for m in model.modules()):
        return 1, 1, {type(model).__name__: False}
    return len(processors), len(missed), {type(p).__name__: speaks_of(type(p), TORCH) for p in missed}


def _tell_reach() -> None:
    """set_attention_backend("aerogel") of diffusers says where it reaches no call."""
    original = ModelMixin.set_attention_backend
    if hasattr(original, "_aerogel"):
        return

    @wraps(original)
    def set_attention_backend(self: Any, backend: str) -> None:
        original(self, backend)
        if str(getattr(backend, "value", backend)).lower() != NAME:
            return
        layers, missed, names = _without_reach(self)
        if missed:
            by_torch, others = (", ".join(sorted(name for name, calls in names.items() if calls == wanted)) for wanted in (True, False))
            whys = [f"{by_torch} call PyTorch themselves, which aerogel.enable_sparse_attention(model, sparse_type=None) reaches"] if by_torch else []
            whys += [f"{others} attend in their own way, which no backend and no plan reaches"] if others else []
            _log.warning("set_attention_backend(\"aerogel\") reaches %s attention of %s: %s",
                         "no" if missed == layers else f"{layers - missed} of {layers} layers with", type(self).__name__, "; ".join(whys))

    set_attention_backend._aerogel = True  # type: ignore[attr-defined]
    ModelMixin.set_attention_backend = set_attention_backend


def register() -> attention_dispatch.AttentionBackendName:
    """Adds the backend to diffusers' dispatcher and returns its AttentionBackendName; again is harmless.

    The names are an Enum without a way to add one from outside, so the member is put into its tables, as other packages do
    (cache-dit). Raises NotImplementedError where this diffusers has other tables."""
    _tell_reach()
    names = attention_dispatch.AttentionBackendName
    if NAME not in names._value2member_map_:
        member = str.__new__(names, NAME)
        member._name_, member._value_, member._sort_order_ = "AEROGEL", NAME, len(names)
        try:
            attention_dispatch._AttentionBackendRegistry.register(member, supports_context_parallel=True)(_backend)
            names._member_map_["AEROGEL"] = names._value2member_map_[NAME] = member
            names._member_names_.append("AEROGEL")
        except AttributeError as error:
            raise NotImplementedError(f"[attention] this version of diffusers takes no further attention backend: {error}") from None
    return names(NAME)
