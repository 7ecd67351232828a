"""Attention that computes every block, or those of a given mask."""
from __future__ import annotations

from typing import Any, Literal, overload

from .. import _core
from .._arrays import Array, ArrayT, empty, handed, restored, wants_gradients
from .._values import switch
from .arguments import blocks_of, empty_lse, heads_of, hidden_keys, positive_scale, prepared, stream_for


@overload
def attention(q: ArrayT, k: ArrayT, v: ArrayT, *, input_layout: str = ..., scale: float | None = ..., mask: Array | None = ...,
              block_size: int | tuple[int, int] = ..., is_causal: bool = ..., return_lse: Literal[False] = ..., key_mask: Array | None = ...) -> ArrayT: ...
@overload
def attention(q: ArrayT, k: ArrayT, v: ArrayT, *, input_layout: str = ..., scale: float | None = ..., mask: Array | None = ...,
              block_size: int | tuple[int, int] = ..., is_causal: bool = ..., return_lse: Literal[True], key_mask: Array | None = ...) -> tuple[ArrayT, ArrayT]: ...
def attention(q: ArrayT, k: ArrayT, v: ArrayT, *, input_layout: str = "BNSD", scale: float | None = None, mask: Array | None = None,
              block_size: int | tuple[int, int] = 128, is_causal: bool = False, return_lse: bool = False, key_mask: Array | None = None) -> Any:
    """softmax(scale q k^T) v per head, as `torch.nn.functional.scaled_dot_product_attention` without dropout.

    q, k, v: [batch, heads, tokens, head_dim] ("BNSD"), [batch, tokens, heads, head_dim] ("BSND") or [tokens, heads, head_dim] ("TND", one
    sequence); float32, bfloat16 or float16; NumPy arrays, or torch tensors on the CPU or on one NVIDIA GPU; q and k may differ in length; k and v may have a divisor of q's heads (GQA). scale:
    head_dim**-0.5 by default. mask: None, or bool/int8 [batch, heads, query blocks, key blocks], true for the blocks to compute (floats: 0
    = computed, -inf = not), of block_size tokens (an int, or a pair for queries and keys); a query row without a computed block gives
    zeros. is_causal: query i sees no key after i + k_len - q_len.
    return_lse: also gives log sum_j exp(scale q k_j) of every query, with which partial results over some of the keys each are put
    together (ring attention): float32 [batch, heads, q tokens] (TND: [heads, q tokens]), -inf where a query sees no key; without gradients.
    key_mask: bool [batch, k tokens] on the GPU of q, k and v: keys that are not true are seen by no query (padding). On the CPU give the keys
    that are seen instead.
    Sums and softmax weights are float32; for bfloat16 on CPUs with AMX or fast AVX-512 BF16 the weights are rounded to bfloat16 before they
    are multiplied with v. Gradients flow to q, k and v; torch computes them.
    Returns an array like q; with return_lse (array, lse). Raises ValueError for shapes and types that do not fit, NotImplementedError for
    gradients with return_lse or key_mask and for key_mask on the CPU."""
    place = {"input_layout": input_layout, "scale": scale, "mask": mask, "block_size": block_size, "is_causal": is_causal}
    return_lse = switch("attention", "return_lse", return_lse)
    if wants_gradients(q, k, v):
        if return_lse:
            raise NotImplementedError("[attention] gradients do not flow through return_lse: call it under torch.no_grad()")
        if key_mask is not None:
            raise NotImplementedError("[attention] gradients do not flow through key_mask: call it under torch.no_grad()")
        return _with_gradients(q, k, v, place)
    (q_, k_, v_), layout = prepared("attention", q, k, v, input_layout, halves=True)
    blocks = blocks_of("attention", mask, block_size, heads_of(q_, layout))
    o, lse = empty(q_.shape, q_), empty_lse(q_, layout) if return_lse else None
    _core.attention(handed(q_), handed(k_), handed(v_), handed(o), layout=layout, scale=positive_scale("attention", scale),
                    causal=switch("attention", "is_causal", is_causal), **blocks, stream=stream_for(q_), **({} if lse is None else {"lse": handed(lse)}), **hidden_keys(key_mask))
    packed = input_layout == "TND"
    result = restored(o[0] if packed else o, q)
    return result if lse is None else (result, lse[0] if packed else lse)


def _with_gradients(q: Any, k: Any, v: Any, place: dict[str, Any]) -> Any:
    from .gradients import with_gradients

    options = {"layout": place["input_layout"], "scale": place["scale"], "causal": place["is_causal"],
               **blocks_of("attention", place["mask"], place["block_size"])}
    if options["layout"] != "TND":
        return with_gradients(q, k, v, lambda *qkv: attention(*qkv, **place), options)
    whole = with_gradients(q[None], k[None], v[None], lambda *qkv: attention(*qkv, **{**place, "input_layout": "BSND"}), options)
    return whole[0]
