"""Attention on q, k and v in few bits, for NumPy arrays and torch tensors."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import Array, ArrayT, as_float_array, empty, handed, is_torch, refuse_recorders, restored, wants_gradients
from .._values import switch, whole
from .arguments import blocks_of, check_alike, heads_of, hidden_keys, mxfp4_scale, positive_scale, stream_for

if TYPE_CHECKING:
    import torch

FORMATS = tuple(row.name for row in _core.attention_formats() if row.name != "none")
_SCALES = ("q_scale", "k_scale", "v_scale", "q_offset", "k_offset", "v_offset")


def _plain(name: str, array: Array) -> Array:
    """A small float array as contiguous float32."""
    if not is_torch(array):
        return np.ascontiguousarray(array, np.float32)
    array = as_float_array("quantized_attention", name, array)
    return array.float().contiguous()


def _pair(rotation: Any) -> tuple[Any, Any]:
    """The matrix of q and that of k."""
    both = tuple(rotation) if isinstance(rotation, (tuple, list)) else (rotation, rotation)
    if len(both) != 2 or not all(hasattr(one, "dtype") for one in both):
        raise ValueError(f"[quantized_attention] rotation must be a [head_dim, head_dim] array, or one for q and one for k, got "
                         f"{type(rotation).__name__} of {', '.join(type(one).__name__ for one in both[:4])}")
    return both


def _tokens(block_tokens: Any) -> tuple[int, int, int]:
    """Tokens of queries, keys and values that share a scale; 0: the format's default."""
    given = (0, 0) if block_tokens is None else block_tokens
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise ValueError(f"[quantized_attention] block_tokens must be (query, key) or (query, key, value) tokens, got {block_tokens!r}")
    q_tokens, k_tokens, v_tokens = (*(whole("quantized_attention", "block_tokens", n, 0) for n in given), 0)[:3]
    return q_tokens, k_tokens, v_tokens


def _lengths(seq_len: Any) -> list[int] | None:
    if seq_len is None:
        return None
    if isinstance(seq_len, str) or not isinstance(seq_len, Iterable):
        raise ValueError(f"[quantized_attention] seq_len must be the tokens of each sequence, got {seq_len!r}")
    return [whole("quantized_attention", "seq_len", n) for n in seq_len]


def _rotations(rotation: Array | tuple[Array, Array] | None) -> dict[str, Any]:
    if rotation is None:
        return {}
    q_rotation, k_rotation = _pair(rotation)
    return {"q_rotation": _plain("q_rotation", q_rotation), "k_rotation": _plain("k_rotation", k_rotation)}


def _rotated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rotation: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q and k times the matrices as float32, by torch: on a GPU the core would have to pack the matrices first, on the CPU."""
    import torch

    matrices = _pair(rotation)
    for name, matrix in zip(("q_rotation", "k_rotation"), matrices):
        if tuple(matrix.shape) != (q.shape[-1],) * 2 or not is_torch(matrix) or matrix.device != q.device:
            raise ValueError(f"[quantized_attention] {name} must be [{q.shape[-1]}, {q.shape[-1]}] on {q.device}, got {list(matrix.shape)} on "
                             f"{getattr(matrix, 'device', 'the CPU')}")
    with torch.autocast("cuda", enabled=False):
        return q.float() @ matrices[0].float(), k.float() @ matrices[1].float(), v.float()


def _calibrated(scales: Mapping[str, Array | None] | None) -> _core.AttentionScales | None:
    if scales is None:
        return None
    if not isinstance(scales, Mapping):
        raise ValueError(f"[quantized_attention] scales must map {', '.join(_SCALES[:3])} to arrays, got {type(scales).__name__}")
    unknown, missing = sorted(set(scales) - set(_SCALES)), [n for n in _SCALES[:3] if scales.get(n) is None]
    if unknown or missing:
        raise ValueError(f"[quantized_attention] scales must hold {', '.join(_SCALES[:3])} and may hold {', '.join(_SCALES[3:])}; "
                         f"unknown: {', '.join(unknown) or 'none'}, missing: {', '.join(missing) or 'none'}")
    return _core.AttentionScales(**{name: _plain(name, array) for name, array in scales.items() if array is not None})


def _with_gradients(q: Any, k: Any, v: Any, format: str, how: dict[str, Any]) -> Any:
    from .gradients import with_gradients

    if how["seq_len"] is not None:
        raise NotImplementedError("[quantized_attention] gradients do not flow through packed sequences: call it under torch.no_grad()")
    options = {"layout": how["input_layout"], "scale": how["scale"], "causal": how["is_causal"], **blocks_of("quantized_attention", how["mask"], how["block_size"])}
    return with_gradients(q, k, v, lambda q, k, v: quantized_attention(q, k, v, format, **how), options)


def quantized_attention(q: ArrayT, k: ArrayT, v: ArrayT, format: str = "int8", *, input_layout: str = "BNSD", scale: float | None = None,
                        seq_len: Iterable[int] | None = None, smooth_k: bool = True, rotation: Array | tuple[Array, Array] | None = None,
                        scales: Mapping[str, Array | None] | None = None, block_tokens: tuple[int, ...] | None = None,
                        v_channels: int | None = None, mxfp4_scale_alg: int | None = None, mxfp4_dst_type_max: float | None = None,
                        is_causal: bool = False, mask: Array | None = None, block_size: int | tuple[int, int] = 128,
                        key_mask: Array | None = None) -> ArrayT:
    """softmax(scale q k^T) v per head with q, k and v in few bits; docs/attention.md describes the arithmetic.

    q, k, v: [batch, heads, tokens, head_dim] ("BNSD") or [batch, tokens, heads, head_dim] ("BSND"), or with seq_len (tokens of each
    sequence, which sum to all) packed [tokens, heads, head_dim]; float32, bfloat16 or float16. format: "int8" (exact integer products, the
    fast format), "int8_qk" (q and k in int8, weights and v as they are), "fp8", "mxfp8", "mxfp4", "mix" (the rounding of these formats, then float32). smooth_k: subtracts the mean over the tokens
    from k, which leaves the softmax weights as they are (SageAttention, arXiv 2410.02367); files for "fp8" and MX formats were made without
    it (False). rotation: an orthogonal [head_dim, head_dim] matrix that q and k are first multiplied with, or one for each. scales: int8
    only, {"q_scale", "k_scale", "v_scale"} of `heads` values found by calibration, and "q_offset" ... block_tokens: (query, key) tokens
    that share a scale, int8, int8_qk, fp8 and mix; for fp8 also (query, key, value). v_channels: channels of v that share a scale, fp8 only; None =
    all. mxfp4_scale_alg, mxfp4_dst_type_max: how blocks of "mxfp4" find their scale: 0 = that of the OCP specification, 2 = by the
    range, 0 or 6 to 12 (docs/attention.md).
    is_causal: as for `attention`, not with int8. mask, block_size, key_mask: as for `attention`, not with seq_len. Gradients are those of float attention, straight through the rounding; with
    seq_len there are none.
    Returns an array like q. Raises ValueError for what does not fit, NotImplementedError for gradients with seq_len or key_mask."""
    if wants_gradients(q, k, v):
        if key_mask is not None:
            raise NotImplementedError("[quantized_attention] gradients do not flow through key_mask: call it under torch.no_grad()")
        how = {"input_layout": input_layout, "scale": scale, "seq_len": seq_len, "smooth_k": smooth_k, "rotation": rotation, "scales": scales,
               "block_tokens": block_tokens, "v_channels": v_channels, "mxfp4_scale_alg": mxfp4_scale_alg,
               "mxfp4_dst_type_max": mxfp4_dst_type_max, "is_causal": is_causal, "mask": mask, "block_size": block_size}
        return _with_gradients(q, k, v, format, how)
    refuse_recorders("quantized_attention", q, k, v)
    if input_layout not in ("BNSD", "BSND"):
        raise ValueError(f"[quantized_attention] input_layout must be BNSD or BSND (packed sequences: seq_len), got {input_layout!r}")
    check_alike("quantized_attention", q, k, v)
    if format not in FORMATS:
        raise ValueError(f"[quantized_attention] format must be one of {', '.join(FORMATS)}, got {format!r}")
    if seq_len is not None and mask is not None:
        raise ValueError("[quantized_attention] mask does not go with seq_len")
    op = "quantized_attention"
    blocks = blocks_of(op, mask, block_size, heads_of(q, input_layout))
    q_tokens, k_tokens, v_tokens = _tokens(block_tokens)
    channels = 0 if v_channels is None else whole(op, "v_channels", v_channels, 0)
    blocks |= {name: value for name, value in (("v_tokens", v_tokens), ("v_channels", channels)) if value}
    blocks |= mxfp4_scale(op, mxfp4_scale_alg, mxfp4_dst_type_max)
    halves = format in ("int8", "int8_qk") and rotation is None
    arrays = as_float_array(op, "q", q, halves), as_float_array(op, "k", k, halves), as_float_array(op, "v", v, halves)
    if rotation is not None and is_torch(arrays[0]) and arrays[0].is_cuda:
        arrays, rotation = _rotated(*arrays, rotation), None
    o = empty(arrays[0].shape, arrays[0])
    _core.attention(handed(arrays[0]), handed(arrays[1]), handed(arrays[2]), handed(o), layout=input_layout, scale=positive_scale(op, scale),
                    causal=switch(op, "is_causal", is_causal), format=format, smooth_k=switch(op, "smooth_k", smooth_k), q_tokens=q_tokens, k_tokens=k_tokens, scales=_calibrated(scales),
                    **_rotations(rotation), **blocks, seq_len=_lengths(seq_len),
                    **hidden_keys(key_mask), stream=stream_for(arrays[0]))
    return restored(o, q)
