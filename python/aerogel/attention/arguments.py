"""What all calls of attention check and bring into the core's form: the arrays, the scale, and masks of blocks."""
from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .._arrays import Array, ArrayT, as_float_array, handed, is_torch, refuse_recorders
from .._devices import stream_of
from .._values import positive

LAYOUTS = ("BNSD", "BSND", "TND")


def check_alike(op: str, *qkv: object) -> None:
    """ValueError unless q, k and v are arrays of one kind and type."""
    for name, array in zip("qkv", qkv):
        if not hasattr(array, "dtype"):
            raise ValueError(f"[{op}] {name} must be a NumPy array or a torch tensor, got {type(array).__name__}")
    if len({is_torch(array) for array in qkv}) > 1:
        raise ValueError(f"[{op}] q, k and v must be of one kind, all torch tensors or all NumPy arrays")
    dtypes: list[Any] = [getattr(array, "dtype") for array in qkv]
    if not dtypes[0] == dtypes[1] == dtypes[2]:
        raise ValueError(f"[{op}] q, k and v must have one dtype, got {', '.join(map(str, dtypes))}")


def prepared(op: str, q: ArrayT, k: ArrayT, v: ArrayT, input_layout: str, *, halves: bool = False) -> tuple[tuple[ArrayT, ArrayT, ArrayT], str]:
    """q, k and v as the core takes them, 4-D, and the layout they are in then. halves: as for as_float_array."""
    refuse_recorders(op, q, k, v)
    if input_layout not in LAYOUTS:
        raise NotImplementedError(f"[{op}] input_layout must be BNSD, BSND or TND, got {input_layout!r}")
    check_alike(op, q, k, v)
    arrays = as_float_array(op, "q", q, halves), as_float_array(op, "k", k, halves), as_float_array(op, "v", v, halves)
    if input_layout != "TND":
        return arrays, input_layout
    if any(t.ndim != 3 for t in arrays):
        raise ValueError(f"[{op}] TND is [tokens, heads, head_dim], got {', '.join(str(list(t.shape)) for t in arrays)}")
    q, k, v = arrays
    return (q[None], k[None], v[None]), "BSND"


def positive_scale(op: str, scale: float | None) -> float:
    """0 (the default of the core) for None. ValueError unless positive."""
    if scale is None:
        return 0.0
    return positive(op, "scale", scale)


def mxfp4_scale(op: str, algorithm: int | None, dst_type_max: float | None) -> dict[str, Any]:
    """The core's options for the scale of MXFP4 blocks, none for the default. algorithm None: 2 where a range is given, else 0. A range that
    does not fit is refused with algorithm 0, too."""
    if algorithm is not None and (isinstance(algorithm, bool) or not isinstance(algorithm, int) or algorithm not in (0, 2)):
        raise ValueError(f"[{op}] mxfp4_scale_alg must be 0, 2 or None, got {algorithm!r}")
    if dst_type_max is not None and (isinstance(dst_type_max, bool) or not isinstance(dst_type_max, (int, float))):
        raise ValueError(f"[{op}] mxfp4_dst_type_max must be a number or None, got {dst_type_max!r}")
    if dst_type_max and not 6 <= dst_type_max <= 12:
        raise ValueError(f"[{op}] mxfp4_dst_type_max must be 0 or in [6, 12], got {dst_type_max!r}")
    given = (2 if dst_type_max else 0) if algorithm is None else algorithm
    return {"mxfp4_scale_alg": given, "mxfp4_dst_type_max": float(dst_type_max or 0) if given else 0.0} if given else {}


def stream_for(q: Array) -> int:
    """The stream of a call on q, 0 on the CPU."""
    return stream_of(q.device) if is_torch(q) and q.is_cuda else 0


def heads_of(q: Array, layout: str) -> tuple[int, int]:
    """Batch and heads of a 4-D q."""
    return (q.shape[0], q.shape[1 if layout == "BNSD" else 2]) if q.ndim == 4 else (0, 0)


def empty_lse(q: ArrayT, layout: str) -> ArrayT:
    """float32 [batch, heads, q tokens] of a 4-D q, of its kind."""
    shape = (*heads_of(q, layout), q.shape[2 if layout == "BNSD" else 1]) if q.ndim == 4 else (0, 0, 0)
    return sys.modules["torch"].empty(shape, device=q.device, dtype=sys.modules["torch"].float32) if is_torch(q) else np.empty(shape, np.float32)


def blocks_of(op: str, mask: Array | None, block_size: int | tuple[int, int], heads: tuple[int, int] | None = None) -> dict[str, Any]:
    """The core's options for a mask of blocks of block_size tokens, an int or a pair; none without a mask. heads: batch and heads, for
    which a mask of one of them is repeated."""
    if mask is None:
        return {}
    block = tuple(block_size) if isinstance(block_size, (tuple, list)) else (block_size, block_size)
    if len(block) != 2 or not all(isinstance(b, (int, np.integer)) and b >= 1 for b in block):
        raise ValueError(f"[{op}] block_size must be a number of tokens or a pair of them, at least 1, got {block_size!r}")
    blocks = block_mask(op, "mask", mask)
    if heads is not None and all(given in (1, wanted) for given, wanted in zip(blocks.shape[:2], heads)):
        shape = (*heads, *blocks.shape[2:])
        blocks = blocks.expand(shape).contiguous() if is_torch(blocks) else np.ascontiguousarray(np.broadcast_to(blocks, shape))
    return {"mask": blocks, "block": tuple(int(b) for b in block)}


def hidden_keys(key_mask: Array | None) -> dict[str, Any]:
    """The core's option for keys that no query sees; none without a mask."""
    if key_mask is None:
        return {}
    return {"key_mask": handed(key_mask.contiguous() if is_torch(key_mask) else np.ascontiguousarray(key_mask))}


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


def block_mask(op: str, name: str, mask: Any, device: Any = None) -> Array:
    """bool or 8-bit integers, 4-D and contiguous; on the CPU, but if it is on `device` and not of floats, whose look would wait for it."""
    if is_torch(mask):
        mask = mask.detach()
        if mask.device != device or mask.is_floating_point():
            mask = mask.cpu()
    mask = attended(op, name, mask if is_torch(mask) else np.asarray(mask))
    kind = str(mask.dtype).removeprefix("torch.")
    if kind not in ("bool", "int8", "uint8") or mask.ndim not in (2, 4):
        raise ValueError(f"[{op}] {name} must say which blocks are computed: bool or int8 [batch, heads, query blocks, key blocks] "
                         f"or [query blocks, key blocks], got {kind} {list(mask.shape)}")
    mask = mask.reshape((1, 1, *mask.shape)) if mask.ndim == 2 else mask
    return mask.contiguous() if is_torch(mask) else np.ascontiguousarray(mask)
