"""Dense and sparse attention for NumPy arrays and torch tensors on the CPU."""
import math

from . import _core
from ._arrays import as_float_array, empty_like, is_torch, restored

LAYOUTS = ("BNSD", "BSND")
SPARSE_TYPES = ("rf_v1", "rf_v2")


def _prepared(op, q, k, v, input_layout):
    if input_layout not in LAYOUTS:
        raise NotImplementedError(f"[{op}] input_layout must be BNSD or BSND, got {input_layout!r}; split packed sequences first")
    kinds = {is_torch(t) for t in (q, k, v)}
    if len(kinds) > 1:
        raise ValueError(f"[{op}] q, k and v must be of one kind, all torch tensors or all NumPy arrays")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"[{op}] q, k and v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    return [as_float_array(op, name, t) for name, t in (("q", q), ("k", k), ("v", v))]


def _scale(op, scale):
    if scale is None:
        return 0.0
    if not (isinstance(scale, (int, float)) and math.isfinite(scale) and scale > 0):
        raise ValueError(f"[{op}] scale must be a positive number or None, got {scale!r}")
    return float(scale)


def attention(q, k, v, *, input_layout="BNSD", scale=None, mask=None, block_size=128):
    """softmax(scale q k^T) v per head, as `torch.nn.functional.scaled_dot_product_attention` without dropout.

    q, k, v: [batch, heads, tokens, head_dim] ("BNSD") or [batch, tokens, heads, head_dim] ("BSND"); float32, bfloat16 or float16;
    q and k may differ in length. scale: head_dim**-0.5 by default. mask: None, or bool/int8 [batch, heads, query blocks, key blocks]
    of blocks of block_size tokens (an int or a pair) that are computed; a query row without any gives zeros.
    Returns an array like q. Raises ValueError for shapes and types that do not fit."""
    prepared = _prepared("attention", q, k, v, input_layout)
    o = empty_like(prepared[0])
    options = {"layout": input_layout, "scale": _scale("attention", scale)}
    if mask is not None:
        block = tuple(block_size) if isinstance(block_size, (tuple, list)) else (block_size, block_size)
        if min(block) < 1:
            raise ValueError(f"[attention] block_size must be at least 1, got {block_size}")
        options |= {"mask": mask, "block": block}
    _core.attention(*prepared, o, options)
    return restored(o, q)


def _refuse_unused(attn_mask, is_causal, unknown):
    if unknown:
        raise TypeError(f"sparse_attention() got unexpected keyword arguments: {', '.join(sorted(unknown))}")
    if attn_mask is not None or is_causal:
        raise NotImplementedError("[sparse_attention] attn_mask and is_causal do not go with sparse patterns of video; pass none")


def sparse_attention(q, k, v, attn_mask=None, scale=None, is_causal=False, head_num=1, input_layout="BNSD", inner_precise=0,
                     sparse_type=None, txt_len=0, block_size=128, latent_shape_q=None, latent_shape_k=None, keep_sink=True,
                     keep_recent=True, cdf_threshold=1.0, sparsity=0.0, protect_first_frame=True, min_recall=0.0,
                     return_report=False, **kwargs):
    """Attention that computes only the blocks that matter (RainFusion, arXiv 2505.21036; 2512.24086), signature of MindIE SD.

    q, k, v as in `attention`, tokens [text | video] with the video flattened frame by frame. sparse_type: None (dense), "rf_v1"
    (spatial, temporal or textural per head) or "rf_v2" (block means). latent_shape_q: (frames, height, width) in tokens; must equal
    latent_shape_k where both are given. sparsity: wanted share of skipped blocks in [0, 1). min_recall: rf_v1, a head whose best mask
    keeps less stays dense. head_num, inner_precise, keep_sink, keep_recent and cdf_threshold have no meaning for these patterns and are
    accepted. Returns an array like q, with return_report (array, dict) where the dict holds density, seconds and what each head became.
    Raises ValueError for what does not fit, NotImplementedError for the patterns that are not there, TypeError for unknown keywords."""
    _refuse_unused(attn_mask, is_causal, kwargs)
    if sparse_type is None:
        o = attention(q, k, v, input_layout=input_layout, scale=scale)
        return (o, {"heads": [], "density": 1.0, "dense_because": "sparse_type is None"}) if return_report else o
    if sparse_type in ("rf_v3", "ada_bsa"):
        raise NotImplementedError(f"[sparse_attention] {sparse_type} is not there yet; there are: {', '.join(SPARSE_TYPES)}")
    if sparse_type not in SPARSE_TYPES:
        raise ValueError(f"[sparse_attention] sparse_type must be None, {', '.join(SPARSE_TYPES)}, got {sparse_type!r}")
    shape = latent_shape_q if latent_shape_q is not None else latent_shape_k
    if shape is None or len(shape) != 3:
        raise ValueError(f"[sparse_attention] latent_shape_q must be (frames, height, width) in tokens, got {shape}")
    if latent_shape_k is not None and tuple(latent_shape_k) != tuple(shape):
        raise ValueError(f"[sparse_attention] latent_shape_q and latent_shape_k must be equal, got {shape} and {latent_shape_k}")
    prepared = _prepared("sparse_attention", q, k, v, input_layout)
    o = empty_like(prepared[0])
    report = _core.sparse_attention(*prepared, o, {
        "sparse_type": sparse_type, "layout": input_layout, "sparsity": float(sparsity), "latent_shape": tuple(int(n) for n in shape),
        "txt_len": int(txt_len), "block_size": int(block_size), "protect_first_frame": bool(protect_first_frame),
        "min_recall": float(min_recall), "scale": _scale("sparse_attention", scale)})
    o = restored(o, q)
    return (o, report) if return_report else o
