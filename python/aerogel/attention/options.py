"""From the keywords of `sparse_attention` to the structs of the core, whose table says which types and parameters there are. What only the
core can judge is left to it."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import _core
from .._arrays import Array, as_float_array, is_torch

TYPES = {row.name: row for row in _core.sparse_types()}
SPARSE_TYPES = tuple(name for name in TYPES if name != "none")
PARAMETERS: dict[str, Any] = {name: getattr(_core.SparsePattern("none"), name) for name in _core.sparse_parameters()}
FURTHER: dict[str, Any] = {
    "mask": None, "cached_mask": None, "precision": "bf16", "video_spans": None, "return_mask": False, "return_report": False,
    "txt_first": True, "q_rot": None, "k_rot": None,
    **{name: default for name, default in PARAMETERS.items() if name not in ("sparsity", "block_size", "cdf_threshold", "keep_sink", "keep_recent")}}


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


def _triple(name: str, shape: Sequence[int] | None) -> tuple[int, int, int]:
    if shape is None or isinstance(shape, str) or len(shape) != 3:
        raise ValueError(f"[sparse_attention] {name} must be (frames, height, width) in tokens, got {shape}")
    frames, height, width = (int(n) for n in shape)
    return frames, height, width


def _spans(spans: Iterable[Any]) -> list[tuple[int, tuple[int, int, int]]]:
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


def _layout(options: dict[str, Any]) -> _core.VideoLayout:
    """Where the videos are."""
    spans, txt_len, shapes = options["video_spans"], int(options["txt_len"]), [options["latent_shape_q"], options["latent_shape_k"]]
    row = TYPES[options["sparse_type"] or "none"]
    if not row.predicts:
        return _core.VideoLayout()
    if spans is not None:
        if shapes != [None, None] or txt_len:
            raise ValueError("[sparse_attention] video_spans stand instead of latent_shape_q, latent_shape_k and txt_len; give one of them")
        return _core.VideoLayout(spans=_spans(spans))
    txt_first = bool(options["txt_first"])
    if not row.needs_video:
        return _core.VideoLayout(txt_len=txt_len, txt_first=txt_first)
    latent, latent_k = (_triple(name, shapes[i] if shapes[i] is not None else shapes[1 - i])
                        for i, name in enumerate(("latent_shape_q", "latent_shape_k")))
    return _core.VideoLayout(latent=latent, latent_k=latent_k, txt_len=txt_len, txt_first=txt_first)


def _pattern(options: dict[str, Any]) -> _core.SparsePattern:
    pattern = _core.SparsePattern(options["sparse_type"] or "none")
    for name, default in PARAMETERS.items():
        if options[name] is not None:
            setattr(pattern, name, type(default)(options[name]))
    return pattern


class SparseCall:
    """The keywords of `sparse_attention`, all of them, as the core has them: pattern, video, arithmetic, and mask, a given one or None."""

    def __init__(self, options: dict[str, Any], layout: str) -> None:
        if options["sparse_type"] is not None and options["sparse_type"] not in SPARSE_TYPES:
            raise ValueError(f"[sparse_attention] sparse_type must be None, {', '.join(SPARSE_TYPES)}, got {options['sparse_type']!r}")
        rotations = {name: as_float_array("sparse_attention", name, options[key])
                     for name, key in (("q_rotation", "q_rot"), ("k_rotation", "k_rot")) if options[key] is not None}
        self.arithmetic = _core.SparseArithmetic(
            layout=layout, scale=positive_scale("sparse_attention", options["scale"]), is_causal=bool(options["is_causal"]),
            precision=options["precision"], **rotations)
        self.mask = _given_mask(options)
        self.pattern, self.video = _pattern(options), _layout(options)


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


def _given_mask(options: dict[str, Any]) -> Array | None:
    """The one mask that is given, if any, under the name that goes with the pattern."""
    sparse_type = options["sparse_type"]
    given = [name for name in ("attn_mask", "mask", "cached_mask") if options[name] is not None]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(f"[sparse_attention] {' and '.join(given)} are both masks; give one")
    if (given[0] == "cached_mask") != (sparse_type is not None):
        names = [row.name for row in TYPES.values() if row.predicts and row.takes_mask]
        raise ValueError(f"[sparse_attention] sparse_type {sparse_type!r} does not go with {given[0]}: attn_mask or mask stand alone, with "
                         f"sparse_type None; cached_mask stands in for the mask of {', '.join(names[:-1])} or {names[-1]}")
    return block_mask("sparse_attention", given[0], options[given[0]])
