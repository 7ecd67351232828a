"""QuantizedAttention: the module that a model's attention calls instead of its float product.

A description or a configuration names attention modules; each gets one of these as `layer.fa_quant` (`layer.fa3` for the older
calibrated int8 form), as MindIE SD hangs them in."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import CodeType, FunctionType
from typing import Any, cast

import torch
from torch import nn

from .. import _core
from ..timestep import TimestepManager, TimestepPolicyConfig
from .arguments import mxfp4_scale
from .dense import attention
from .quantized import quantized_attention

FILE_TYPES = {row.file_type: row.name for row in _core.attention_formats() if row.file_type}
_ATTRIBUTES = {"fa_quant", "fa3"}
_WHOLE = 2147483647  # "all tokens before" and "all tokens after" in calls made for Ascend


def _heads_like(q: torch.Tensor, t: torch.Tensor, axis: int) -> torch.Tensor:
    """Keys or values with fewer heads, each repeated for the query heads that share it (GQA)."""
    heads, own = q.shape[axis], t.shape[axis]
    if heads == own:
        return t
    if own == 0 or heads % own:
        raise ValueError(f"[fa_quant] the {heads} heads of q must be a multiple of those of k and v, got {own}")
    return t.repeat_interleave(heads // own, dim=axis)


def _refuse(further: dict[str, Any]) -> None:
    """What calls for other machines may ask for and nothing here computes."""
    neutral = {"pre_tokens": _WHOLE, "next_tokens": _WHOLE, "win_left": _WHOLE, "win_right": _WHOLE, "mask_mode": 0, "return_softmax_lse": 0}
    accepted = {"metadata", "max_seqlen_q", "max_seqlen_kv", "num_key_value_heads"}
    asked = [n for n, value in further.items() if n not in accepted and value is not None and value != neutral.get(n)]
    if asked:
        raise NotImplementedError(f"[fa_quant] {', '.join(sorted(asked))}: quantized attention is dense and unmasked here; use "
                                  "attention_forward with attn_mask, or sparse_attention")


class QuantizedAttention(nn.Module):
    """Dense attention with quantized q, k and v: `forward(query, key, value, layout="BNSD", softmax_scale=None, key_mask=None)`, or packed
    `forward(query, key, value, seq_len)` on [tokens, heads, head_dim].

    format: of `quantized_attention`. q_rot, k_rot: [head_dim, head_dim] or None. scales: calibrated, int8 only. policy: a
    TimestepPolicyConfig whose target "fa" chooses per step: "mxfp4" takes MXFP4, FP8 or FLOAT, the others are float in steps registered as
    FLOAT; None = the format always. smooth_k: of `quantized_attention`, int8 and int8_qk only; files of the other formats were made without it.
    mxfp4_scale_alg, mxfp4_dst_type_max: of `quantized_attention`, in steps of "mxfp4"; ValueError for what does not fit. k may have fewer
    heads than q. The output has q's dtype and layout (or layout_out)."""

    def __init__(self, format: str, *, q_rot: torch.Tensor | None = None, k_rot: torch.Tensor | None = None,
                 scales: Mapping[str, torch.Tensor] | None = None, policy: TimestepPolicyConfig | None = None, smooth_k: bool = False,
                 mxfp4_scale_alg: int | None = None, mxfp4_dst_type_max: float | None = None) -> None:
        super().__init__()
        self._mxfp4 = mxfp4_scale("fa_quant", mxfp4_scale_alg, mxfp4_dst_type_max)
        self.format, self.timestep_config, self.smooth_k = format, policy, smooth_k
        for name, array in {"q_rot": q_rot, "k_rot": k_rot, **(scales or {})}.items():
            self.register_buffer(name, array, persistent=False)
        self._scales = tuple(scales or ())

    def _format_now(self) -> str | None:
        if self.timestep_config is None:
            return self.format
        step = TimestepManager.get_timestep_idx()
        return self.timestep_config.in_step(step).attention_format(self.format, step)

    @property
    def calibrated(self) -> bool:
        """True when it has calibrated scales."""
        return bool(self._scales)

    def _call(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **where: Any) -> torch.Tensor:
        format = self._format_now()
        if format is None:
            return attention(q, k, v, **where)
        rotation = None if self.q_rot is None else (self.q_rot, self.k_rot)
        scales = {name: getattr(self, name) for name in self._scales} or None
        smooth_k = self.smooth_k and format in ("int8", "int8_qk")
        blocks = self._mxfp4 if format == "mxfp4" else {}
        return quantized_attention(q, k, v, format, smooth_k=smooth_k, rotation=rotation, scales=scales, **blocks, **where)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seq_len: Iterable[int] | None = None, *,
                layout: str = "BNSD", layout_kv: str | None = None, layout_out: str | None = None, softmax_scale: float | None = None,
                key_mask: torch.Tensor | None = None, **further: Any) -> torch.Tensor:
        _refuse(further)
        if seq_len is not None or query.ndim == 3:
            if key_mask is not None:
                raise ValueError("[fa_quant] packed sequences take no key_mask")
            return self._packed(query, key, value, [len(query)] if seq_len is None else seq_len, softmax_scale)
        layouts = [layout, layout_kv or layout, layout_out or layout]
        if query.ndim != 4 or not set(layouts) <= {"BNSD", "BSND"}:
            raise ValueError(f"[fa_quant] q must have 4 axes in layout BNSD or BSND, got {list(query.shape)} in {'/'.join(layouts)}")
        if layouts[1] != layout:
            key, value = key.transpose(1, 2), value.transpose(1, 2)
        axis = 1 if layout == "BNSD" else 2
        key, value = _heads_like(query, key, axis), _heads_like(query, value, axis)
        o = self._call(query, key, value, input_layout=layout, scale=softmax_scale, key_mask=key_mask)
        return o if layouts[2] == layout else o.transpose(1, 2)

    def _packed(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seq_len: Iterable[int], scale: float | None) -> torch.Tensor:
        key, value = _heads_like(query, key, 1), _heads_like(query, value, 1)
        lengths = [int(n) for n in (seq_len.tolist() if isinstance(seq_len, torch.Tensor) else seq_len)]
        if self._format_now() is not None:
            return self._call(query, key, value, scale=scale, seq_len=lengths)
        parts = zip(*(t.split(lengths) for t in (query, key, value)), strict=True)
        return torch.cat([attention(*(t[None] for t in part), input_layout="BSND", scale=scale)[0] for part in parts])

    def extra_repr(self) -> str:
        return f"format={self.format}, rotated={self.q_rot is not None}"


def planned(decision: _core.ModuleDecision, policy: TimestepPolicyConfig | None = None, mxfp4: Mapping[str, Any] | None = None) -> QuantizedAttention:
    """The module for attention that a plan quantizes. mxfp4: its mxfp4_scale_alg and mxfp4_dst_type_max, if given."""
    format, arrays = cast(tuple[str, dict[str, Any]], decision.attention)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    rotation = {name: tensors.pop(name) for name in ("q_rot", "k_rot") if name in tensors}
    if tensors:  # k and v may have fewer heads, each of which serves several of q
        heads = tensors["q_scale"].numel()
        tensors = {n: t.repeat_interleave(heads // t.numel()) for n, t in tensors.items()}
    return QuantizedAttention(format, **rotation, scales=tensors, policy=policy, smooth_k=format == "int8", **(mxfp4 or {}))


def _mentions(code: CodeType, names: Set[str]) -> bool:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return not names.isdisjoint((*code.co_names, *(c for c in code.co_consts if isinstance(c, str)))) or any(_mentions(c, names) for c in inner)


def speaks_of(kind: type, names: Set[str]) -> bool:
    """Whether the code of a class names one of these."""
    own = (function for base in kind.__mro__ if base not in (nn.Module, object) for function in vars(base).values())
    return any(isinstance(function, FunctionType) and _mentions(function.__code__, names) for function in own)


TORCH = {"scaled_dot_product_attention"}


def _attends(processor: object) -> bool:
    """Whether a processor of diffusers computes attention in a way that can be exchanged."""
    return hasattr(processor, "_attention_backend") or speaks_of(type(processor), TORCH)


def attends_by_itself(module: nn.Module) -> bool:
    """Whether a module without a processor, and without a word of fa_quant, calls torch's attention: its calls can be exchanged while it runs."""
    return getattr(module, "processor", None) is None and not speaks_of(type(module), _ATTRIBUTES) and speaks_of(type(module), TORCH)


def must_be_told(module: nn.Module) -> bool:
    """Whether a module that can compute quantized attention does so only where its calls are exchanged, not by its fa_quant."""
    return getattr(module, "processor", None) is not None or attends_by_itself(module)


def why_no_attention(module: nn.Module) -> str:
    """Why a module cannot compute quantized attention; empty if it can."""
    if _attends(getattr(module, "processor", None)) or speaks_of(type(module), _ATTRIBUTES) or attends_by_itself(module):
        return ""
    if getattr(module, "processor", None) is not None:
        return f"{type(module.processor).__name__} calls neither diffusers' dispatcher nor torch's scaled_dot_product_attention"
    return f"{type(module).__name__} has no processor of diffusers and calls neither its fa_quant nor torch's scaled_dot_product_attention"


def hang(module: nn.Module, attention: QuantizedAttention) -> None:
    """Sets the attention where MindIE SD hangs it: as `fa_quant`, calibrated int8 under the older name `fa3`."""
    setattr(module, "fa3" if attention.calibrated else "fa_quant", attention)
