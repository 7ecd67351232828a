"""quant_attention: attention of float q, k and v in FP8, MXFP8 or MXFP4."""
from dataclasses import dataclass
from typing import Any, Iterator

import torch
import torch.nn.functional as F
from aerogel import quantized_attention

from ...quantization.mode import FP8FAMode, normalize_fp8_fa_mode

PRECISIONS = ("fp8", "mxfp8", "mxfp4")
WHOLE = 2147483647
_OP = "quant_attention"
# Tokens of q, k and v, and channels of v, that share a scale.
_FP8_BLOCKS = {FP8FAMode.HIGH_PRECISION: ((128, 256, 256), 128), FP8FAMode.C8V16_TILING512: ((128, 256, 512), 64)}
_CHUNK = 512  # a multiple of every block of tokens: cut there, no scale changes
# Of the operator on a card. What is not None or neutral asks for something else than this function computes.
_NATIVE = {"metadata": (), "block_table": (), "sinks": (), "attn_mask": (), "mask_mode": (0,), "return_softmax_lse": (0, 1)}


@dataclass
class _Call:
    """The arrays in one layout, and what each query sees of the keys: those from `before` places before it to `behind` behind."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    axis: int  # of the tokens
    before: int
    behind: int
    how: dict[str, Any]  # of quantized_attention

    @property
    def lengths(self) -> tuple[int, int]:
        return self.q.shape[self.axis], self.k.shape[self.axis]


def _sizes(name: str, tensor: Any, layout: str) -> tuple[int, ...]:
    """Batch, heads, tokens and head_dim."""
    if layout not in ("BNSD", "BSND"):
        raise ValueError(f"[{_OP}] layout must be BNSD or BSND, got {layout!r}")
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 4 or 0 in tensor.shape:
        got = list(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f"[{_OP}] {name} must be a tensor of 4 non-empty axes, got {got}")
    b, n, s, d = (0, 1, 2, 3) if layout == "BNSD" else (0, 2, 1, 3)
    return tuple(tensor.shape[axis] for axis in (b, n, s, d))


def _check_arrays(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layouts: tuple[str, str]) -> None:
    (batch, heads, _, dim), (k_batch, k_heads, _, k_dim) = _sizes("query", q, layouts[0]), _sizes("key", k, layouts[1])
    _sizes("value", v, layouts[1])
    described = f"query {list(q.shape)} {q.dtype}, key {list(k.shape)} {k.dtype}, value {list(v.shape)} {v.dtype}"
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"[{_OP}] query, key and value must be of one dtype, float16, bfloat16 or float32, got {described}")
    if not q.device == k.device == v.device:
        raise ValueError(f"[{_OP}] query, key and value must be on one device, got {q.device}, {k.device} and {v.device}")
    if k.shape != v.shape or batch != k_batch or dim != k_dim:
        raise ValueError(f"[{_OP}] key and value must have one shape, and batch and head_dim of query, got {described}")
    if heads % k_heads:
        raise ValueError(f"[{_OP}] the heads of query must be a multiple of those of key, got {heads} and {k_heads}")


def _rotation(name: str, rotation: Any, tensor: torch.Tensor) -> torch.Tensor | None:
    """In the dtype of the tensor it turns."""
    if rotation is None:
        return None
    dim = tensor.shape[-1]
    if not isinstance(rotation, torch.Tensor) or rotation.shape != (dim, dim):
        got = list(rotation.shape) if isinstance(rotation, torch.Tensor) else type(rotation).__name__
        raise ValueError(f"[{_OP}] {name} must have shape [{dim}, {dim}], got {got}")
    if rotation.device != tensor.device:
        raise ValueError(f"[{_OP}] {name} must be on {tensor.device}, got {rotation.device}")
    return rotation.to(tensor.dtype)


def _window(name: str, tokens: Any) -> int:
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        raise ValueError(f"[{_OP}] {name} must be a whole number of tokens, got {tokens!r}")
    return tokens


def _take_mxfp4(layout: str, windows: list[Any], kwargs: dict[str, Any]) -> tuple[str, str, Any, bool]:
    """(layout_kv, layout_out, num_key_value_heads, strict); windows become win_left and win_right where these are given."""
    for i, name in enumerate(("win_left", "win_right")):
        given = kwargs.pop(name, None)
        windows[i] = windows[i] if given is None else given
    for name in ("max_seqlen_q", "max_seqlen_kv"):  # bounds that a card may use
        kwargs.pop(name, None)
    for name, neutral in _NATIVE.items():
        given = kwargs.pop(name, None)
        if given is not None and (isinstance(given, torch.Tensor) or given not in neutral):
            raise NotImplementedError(f"[{_OP}] {name} is of the operator on a card: leave it out, or use attention_forward with attn_mask")
    layout_kv, layout_out = (kwargs.pop(name, None) or layout for name in ("layout_kv", "layout_out"))
    if layout_out not in ("BNSD", "BSND"):
        raise ValueError(f"[{_OP}] layout_out must be BNSD or BSND, got {layout_out!r}")
    return layout_kv, layout_out, kwargs.pop("num_key_value_heads", None), bool(kwargs.pop("strict", False))


def _chunks(call: _Call) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Queries, the keys that any of them sees, in whole blocks, and [queries, keys] true where it does."""
    q_len, k_len = call.lengths
    for first in range(0, q_len, _CHUNK):
        last = min(first + _CHUNK, q_len)
        start = min(max(first - call.before, 0), k_len) // _CHUNK * _CHUNK
        end = min(max(-(-min(last + call.behind, k_len) // _CHUNK) * _CHUNK, start), k_len)
        distance = torch.arange(start, end)[None] - torch.arange(first, last)[:, None]
        yield slice(first, last), slice(start, end), (distance >= -call.before) & (distance <= call.behind)


def _attend(call: _Call) -> torch.Tensor:
    q_len, k_len = call.lengths
    before = call.before >= q_len - 1
    if before and call.behind >= k_len - 1:
        return quantized_attention(call.q, call.k, call.v, **call.how)
    if before and call.behind == 0 and q_len == k_len:
        return quantized_attention(call.q, call.k, call.v, is_causal=True, **call.how)
    parts = []
    for queries, keys, seen in _chunks(call):
        q = call.q[(slice(None),) * call.axis + (queries,)]
        k, v = (t[(slice(None),) * call.axis + (keys,)] for t in (call.k, call.v))
        parts.append(quantized_attention(q, k, v, mask=seen, block_size=1, **call.how) if seen.any() else torch.zeros_like(q))
    return torch.cat(parts, dim=call.axis)


def _padded(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """With zeros behind its tokens, up to a multiple of 512."""
    missing = -tensor.shape[axis] % 512
    return F.pad(tensor, (0, 0, 0, missing) if axis == 2 else (0, 0, 0, 0, 0, missing))


def _scaled(query: torch.Tensor, scale: float | None) -> tuple[torch.Tensor, dict[str, Any]]:
    """The query for a scale that is positive, and that scale: a sign, and zero, go into the query, which rounds as before."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float))):
        raise ValueError(f"[{_OP}] scale must be a number or None, got {scale!r}")
    if scale is None or scale > 0:
        return query, {"scale": scale}
    return (-query, {"scale": -float(scale)}) if scale else (torch.zeros_like(query), {"scale": None})


def quant_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, precision: str = "fp8", *, layout: str = "BNSD",
                    scale: float | None = None, q_rot: torch.Tensor | None = None, k_rot: torch.Tensor | None = None, pre_tokens: int = WHOLE,
                    next_tokens: int = WHOLE, **kwargs: Any) -> torch.Tensor:
    """softmax(scale q k^T) v per head, q, k and v rounded to what a precision holds, the softmax and both products in float32.

    query: [batch, heads, tokens, head_dim] in "BNSD", [batch, tokens, heads, head_dim] in "BSND"; key, value alike, with as many heads or a
    divisor; float16, bfloat16 or float32. scale: head_dim**-0.5 by default. q_rot, k_rot: [head_dim, head_dim], query @ q_rot and
    key @ k_rot in their own dtype, before they are rounded; either may be missing. pre_tokens, next_tokens: query i sees keys
    i - pre_tokens to i + next_tokens; a query that sees none gives zeros.
    precision "fp8": E4M3, a scale per 128 tokens of query and 256 of key and value, and per 128 channels of value; batch 1. With
    fp8_fa_mode="C8V16_TILING512" 512 tokens and 64 channels of value. "mxfp8", "mxfp4": blocks of 32 channels of query and key, 32 tokens of
    value. Keywords of "mxfp4": layout_kv, layout_out, num_key_value_heads (checked), win_left and win_right in place of pre_tokens and
    next_tokens, mxfp4_scale_alg and mxfp4_dst_type_max (of `aerogel.quantized_attention`); strict: MindIE SD pads the tokens by zeros to
    multiples of 512, and the padded keys, whose scores are 0, take their part in the softmax. True does the same, False (the default)
    leaves them out. metadata, block_table, sinks, attn_mask, mask_mode, max_seqlen_q, max_seqlen_kv and return_softmax_lse are taken where
    they ask for nothing.
    Returns a tensor like query, in layout_out. Raises ValueError for what does not fit, TypeError for unknown keywords,
    NotImplementedError for what only a card's operator does."""
    if precision not in PRECISIONS:
        raise ValueError(f"[{_OP}] precision must be one of {', '.join(PRECISIONS)}, got {precision!r}; mindiesd.attention_forward computes "
                         "attention that is not quantized")
    windows: list[Any] = [pre_tokens, next_tokens]
    layout_kv, layout_out, kv_heads, strict = layout, layout, None, False
    how: dict[str, Any] = {"input_layout": layout, "smooth_k": False}
    mode = kwargs.pop("fp8_fa_mode", None) if precision == "fp8" else None
    if precision == "mxfp4":
        layout_kv, layout_out, kv_heads, strict = _take_mxfp4(layout, windows, kwargs)
        how |= {name: kwargs.pop(name, None) for name in ("mxfp4_scale_alg", "mxfp4_dst_type_max")}
    if kwargs:
        raise TypeError(f"{_OP}() got unexpected keyword arguments for precision {precision}: {', '.join(sorted(kwargs))}")
    _check_arrays(query, key, value, (layout, layout_kv))
    rotations = _rotation("q_rot", q_rot, query), _rotation("k_rot", k_rot, key)
    if kv_heads is not None and (isinstance(kv_heads, bool) or kv_heads != key.shape[1 if layout_kv == "BNSD" else 2]):
        raise ValueError(f"[{_OP}] num_key_value_heads must be the heads of key, got {kv_heads!r} for {list(key.shape)} in {layout_kv}")
    if precision == "fp8":
        if query.shape[0] != 1:
            raise ValueError(f"[{_OP}] fp8 takes a batch of 1, got {query.shape[0]}: call it once for each")
        tokens, channels = _FP8_BLOCKS[normalize_fp8_fa_mode(mode) or FP8FAMode.HIGH_PRECISION]
        how |= {"block_tokens": tokens, "v_channels": channels}
    query, key = (t if r is None else t @ r for t, r in zip((query, key), rotations))
    if layout_kv != layout:
        key, value = key.transpose(1, 2), value.transpose(1, 2)
    axis = 2 if layout == "BNSD" else 1
    q_len = query.shape[axis]
    if strict:
        query, key, value = (_padded(t, axis) for t in (query, key, value))
    query, scaled = _scaled(query, scale)
    before, behind = _window("pre_tokens", windows[0]), _window("next_tokens", windows[1])
    o = _attend(_Call(query, key, value, axis, before, behind, {"format": precision, **how, **scaled}))
    o = o.narrow(axis, 0, q_len)
    return o if layout_out == layout else o.transpose(1, 2)
