"""Attention that computes the blocks that matter, found by a pattern."""
from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from .. import _core
from .._arrays import Array, ArrayT, empty, handed, is_torch, restored, wants_gradients
from .._values import switch
from .arguments import prepared, stream_for
from .sparse_options import FURTHER, SparseCall, further_keywords, settings


def _report(plan: _core.SparsePlan, seconds: float | None) -> dict[str, Any]:
    heads = [{"type": head.type, "recall": head.recall, "density": head.density, **({"recalls": dict(head.recalls)} if head.recalls else {})}
             for head in plan.heads]
    return {"heads": heads, "density": plan.density, "predict_seconds": None if seconds is None else plan.seconds, "attention_seconds": seconds,
            "dense_because": plan.dense_because}


def _like(array: Any, q: Array) -> Any:
    if not is_torch(q):
        return array
    import torch

    return torch.from_numpy(array).to(q.device)


def attend_sparsely(q: ArrayT, k: ArrayT, v: ArrayT, options: dict[str, Any], plan: _core.SparsePlan | None = None) -> tuple[ArrayT, Any, float | None]:
    """(output, plan, seconds of the attention, None on a GPU); options: keywords of sparse_attention. plan: of an earlier call of the
    same sizes, else one is made."""
    if wants_gradients(q, k, v):
        raise NotImplementedError("[sparse_attention] gradients do not flow through sparse attention: call it under torch.no_grad(), or "
                                  "aerogel.attention, which has them")
    options = {**_DEFAULTS, **options}
    halves = options["precision"] in ("none", "bf16", "int8", "int8_qk")  # the others round floats of 32 bits
    (q_, k_, v_), layout = prepared("sparse_attention", q, k, v, options["input_layout"], halves=halves)
    call, o = SparseCall(options, layout, stream_for(q_), q_.device if is_torch(q_) else None), empty(q_.shape, q_)
    if plan is None:
        plan = _core.plan_sparse(handed(q_), handed(k_), call.pattern, call.video, call.options,
                                 mask=None if call.mask is None else handed(call.mask), v=handed(v_), keep_cells=bool(options["return_mask"]))
    seconds: float | None = _core.sparse_attention(handed(q_), handed(k_), handed(v_), handed(o), plan, call.options)
    if is_torch(q_) and q_.is_cuda:
        seconds = None  # that of the launch
    return restored(o[0] if options["input_layout"] == "TND" else o, q), plan, seconds


def check_settings(options: dict[str, Any]) -> None:
    """ValueError for options that every call with them would be refused for."""
    _core.check_sparse_settings(*settings({**_DEFAULTS, **options}))


# Any comes back: return_mask and return_report choose between an array and tuples, and they are among the further keywords.
def sparse_attention(q: ArrayT, k: ArrayT, v: ArrayT, attn_mask: Array | None = None, scale: float | None = None, is_causal: bool = False,
                     head_num: int = 1, input_layout: str = "BNSD", inner_precise: int = 0, sparse_type: str | None = None,
                     txt_len: int = 0, block_size: int = 128, latent_shape_q: Sequence[int] | None = None,
                     latent_shape_k: Sequence[int] | None = None, keep_sink: bool = True, keep_recent: bool = True,
                     cdf_threshold: float = 1.0, sparsity: float = 0.0, **kwargs: Any) -> Any:
    """Attention that computes only the blocks that matter, with the signature of MindIE SD.

    q, k, v, scale and input_layout as in `attention`. sparse_type: "rf_v1" (spatial, temporal or textural per head; RainFusion, arXiv
    2505.21036), "rf_v2" and "rf_v3" (block means; arXiv 2512.24086), "ada_bsa" (antidiagonal scores; XAttention, arXiv 2503.16428), or None:
    dense, or under attn_mask, a block mask. sparsity: share of the blocks to skip, in [0, 1). block_size: 16 to 128 tokens.
    rf_*: latent_shape_q (and latent_shape_k, rf_v2 and rf_v3) are (frames, height, width) in tokens, flattened frame by frame, with txt_len
    text tokens before them. ada_bsa: keep_sink, keep_recent, cdf_threshold, is_causal. head_num and inner_precise are accepted and ignored, and so are
    cdf_threshold, keep_sink and keep_recent by other types; further keywords that the type does not look at are errors. A setting of None is
    its default.
    Further keywords: mask (as attn_mask: bool or int8 [batch, heads, query blocks, key blocks], batch and heads may be 1, or 2-D);
    cached_mask (rf_v2, rf_v3, ada_bsa: as returned by return_mask, used instead of predicting); precision ("none", "int8", "int8_qk", rf_v3 also "fp8", "mix",
    "mxfp4"); q_rot, k_rot (fp8, mxfp4: rotations instead of a Hadamard matrix); mxfp4_scale_alg, mxfp4_dst_type_max (of `quantized_attention`;
    a range alone means algorithm 2); block_size_kv (rf_v3, mask: tokens per key block); video_spans (several
    videos: [{"start": first token, "latent_shape": [T, H, W]}, ...] instead of latent shapes and txt_len); txt_first (False: text comes
    after the video); protect_first_frame; min_recall (rf_v1: a head whose best mask keeps less stays dense); by_error (rf_v1: masks are
    chosen by the error of the output on a sample); centroids (skipped blocks count as their mean key and mean value, arXiv 2603.08982;
    not with is_causal); return_mask; return_report.
    Returns an array like q; (array, int8 mask) with return_mask; with return_report a report dict comes last: density, seconds (None on
    a GPU, where nobody waits) and the type of each head. docs/sparse_attention.md describes the arithmetic. Raises ValueError for what does not
    fit (also NaN in q or k where a mask is to be predicted), NotImplementedError where gradients are wanted, TypeError for unknown keywords."""
    further = further_keywords(kwargs)
    for name in ("return_mask", "return_report"):
        further[name] = switch("sparse_attention", name, further[name])
    o, plan, seconds = attend_sparsely(q, k, v, {
        "attn_mask": attn_mask, "scale": scale, "is_causal": is_causal, "input_layout": input_layout, "sparse_type": sparse_type,
        "txt_len": txt_len, "block_size": block_size, "latent_shape_q": latent_shape_q, "latent_shape_k": latent_shape_k,
        "keep_sink": keep_sink, "keep_recent": keep_recent, "cdf_threshold": cdf_threshold, "sparsity": sparsity, **further})
    results: list[Any] = [o]
    if further["return_mask"]:
        results.append(_like(plan.cells, q))
    if further["return_report"]:
        results.append(_report(plan, seconds))
    return results[0] if len(results) == 1 else tuple(results)


_DEFAULTS: dict[str, Any] = {name: p.default for name, p in inspect.signature(sparse_attention).parameters.items()
                             if p.default is not inspect.Parameter.empty} | FURTHER
