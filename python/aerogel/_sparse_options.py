"""From the keywords of `sparse_attention` to the options of the core. What only the core can judge is left to it."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ._arrays import Array, is_torch

SPARSE_TYPES = ("rf_v1", "rf_v2", "rf_v3", "ada_bsa")
VIDEO_TYPES = SPARSE_TYPES[:3]
FURTHER: dict[str, Any] = {
    "mask": None, "cached_mask": None, "precision": "bf16", "video_spans": None, "return_mask": False, "return_report": False,
    "txt_first": True, "block_size_kv": None, "protect_first_frame": True, "min_recall": 0.0, "q_rot": None, "k_rot": None}


def positive_scale(op: str, scale: float | None) -> float:
    """0 (the default of the core) for None. ValueError unless positive."""
    if scale is None:
        return 0.0
    if not (isinstance(scale, (int, float)) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"[{op}] scale must be a positive number or None, got {scale!r}")
    return float(scale)


def maps_of(q: Array, layout: str) -> tuple[int, int]:
    """Batch and heads of a 4-D q."""
    return (q.shape[0], q.shape[1 if layout == "BNSD" else 2]) if q.ndim == 4 else (0, 0)


def blocks_of(op: str, mask: Array | None, block_size: int | tuple[int, int], maps: tuple[int, int] | None = None) -> dict[str, Any]:
    """The core's options for a mask of blocks of block_size tokens, an int or a pair; none without a mask. maps: batch and heads, for which
    a mask of one of them is repeated."""
    if mask is None:
        return {}
    block = tuple(block_size) if isinstance(block_size, (tuple, list)) else (block_size, block_size)
    if len(block) != 2 or not all(isinstance(b, (int, np.integer)) and b >= 1 for b in block):
        raise ValueError(f"[{op}] block_size must be a number of tokens or a pair of them, at least 1, got {block_size!r}")
    blocks = block_mask(op, "mask", mask)
    if maps is not None and all(given in (1, wanted) for given, wanted in zip(blocks.shape[:2], maps)):
        shape = (*maps, *blocks.shape[2:])
        blocks = blocks.expand(shape).contiguous() if is_torch(blocks) else np.ascontiguousarray(np.broadcast_to(blocks, shape))
    return {"mask": blocks, "block": tuple(int(b) for b in block)}


def further_keywords(given: dict[str, Any]) -> dict[str, Any]:
    """FURTHER with what is given. TypeError for any other keyword."""
    if unknown := sorted(given.keys() - FURTHER.keys()):
        raise TypeError(f"sparse_attention() got unexpected keyword arguments: {', '.join(unknown)}; it knows further: {', '.join(FURTHER)}")
    return {**FURTHER, **given}


def _triple(name: str, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None or isinstance(shape, str) or len(shape) != 3:
        raise ValueError(f"[sparse_attention] {name} must be (frames, height, width) in tokens, got {shape}")
    return tuple(int(n) for n in shape)


def _spans(spans: Iterable[Any]) -> list[tuple[int, tuple[int, ...]]]:
    """[(start, (frames, height, width)), ...] of [{"start": .., "latent_shape" or "latent_grid": .., "role": anything}, ...]."""
    result = []
    for span in spans:
        grids = [span[key] for key in ("latent_shape", "latent_grid") if key in span] if isinstance(span, dict) else []
        if len(grids) != 1 or "start" not in span or span.keys() - {"start", "latent_shape", "latent_grid", "role"}:
            raise ValueError(f'[sparse_attention] video_spans must be a list of {{"start": .., "latent_shape": [T, H, W]}}, got {span}')
        result.append((int(span["start"]), _triple("latent_shape of video_spans", grids[0])))
    if not result:
        raise ValueError("[sparse_attention] video_spans must name at least one video; pass None where there is none")
    return result


def video_options(shape_q: Sequence[int] | None, shape_k: Sequence[int] | None, txt_len: int, further: dict[str, Any]) -> dict[str, Any]:
    """Where the videos are."""
    options = {"txt_len": int(txt_len), "txt_first": bool(further["txt_first"])}
    if further["video_spans"] is not None:
        if shape_q is not None or shape_k is not None or txt_len:
            raise ValueError("[sparse_attention] video_spans stand instead of latent_shape_q, latent_shape_k and txt_len; give one of them")
        return {"spans": _spans(further["video_spans"])}
    shape_q, shape_k = (a if a is not None else b for a, b in ((shape_q, shape_k), (shape_k, shape_q)))
    return {**options, "latent_shape": _triple("latent_shape_q", shape_q), "latent_shape_k": _triple("latent_shape_k", shape_k)}


def attended(op: str, name: str, mask: Any) -> Any:
    """A mask of numbers as scaled_dot_product_attention has them, 0 = seen and -inf (or the least finite number) = not, as bool. Others pass.
    ValueError for numbers that are neither: aerogel adds nothing to the scores."""
    if is_torch(mask):
        if not mask.is_floating_point():
            return mask
        import torch

        seen, hidden = mask == 0, mask <= torch.finfo(mask.dtype).min
    else:
        if mask.dtype.kind != "f":
            return mask
        seen, hidden = mask == 0, mask <= np.finfo(mask.dtype).min
    if not bool((seen | hidden).all()):
        raise ValueError(f"[{op}] {name} of {mask.dtype} is added to the scores and may hold 0 (seen) and -inf (not seen) only: give a bool "
                         "mask, True = seen")
    return seen


def block_mask(op: str, name: str, mask: Any) -> Array:
    """bool or 8-bit integers, 4-D and contiguous."""
    mask = attended(op, name, mask.detach().cpu() if is_torch(mask) else np.asarray(mask))
    kind = str(mask.dtype).removeprefix("torch.")
    if kind not in ("bool", "int8", "uint8") or mask.ndim not in (2, 4):
        raise ValueError(f"[{op}] {name} must say which blocks are computed: bool or int8 [batch, heads, query blocks, key blocks] "
                         f"or [query blocks, key blocks], got {kind} {list(mask.shape)}")
    mask = mask.reshape((1, 1, *mask.shape)) if mask.ndim == 2 else mask
    return mask.contiguous() if is_torch(mask) else np.ascontiguousarray(mask)


def mask_options(sparse_type: str | None, attn_mask: Array | None, further: dict[str, Any]) -> dict[str, Any]:
    """The one mask that is given, if any, under the name that goes with the pattern."""
    named = {"attn_mask": attn_mask, "mask": further["mask"], "cached_mask": further["cached_mask"]}
    given = [name for name, mask in named.items() if mask is not None]
    if not given:
        return {}
    if len(given) > 1:
        raise ValueError(f"[sparse_attention] {' and '.join(given)} are both masks; give one")
    if (given[0] == "cached_mask") != (sparse_type is not None):
        raise ValueError(f"[sparse_attention] sparse_type {sparse_type!r} does not go with {given[0]}: attn_mask or mask stand alone, with "
                         "sparse_type None; cached_mask stands in for the mask of rf_v2, rf_v3 or ada_bsa")
    return {"mask": block_mask("sparse_attention", given[0], named[given[0]])}
