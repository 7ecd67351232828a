"""rain_fusion_attention: attention over blocks that the caller has chosen, given as lists of indices."""
from collections.abc import Sequence
from typing import Any, Optional

import torch
from aerogel import attention

from ...utils.exception import ParametersInvalid, invalid_arguments, require
from .rf_v2_steps import (
    avgpool,
    do_tensor_inv_rearrange,
    do_tensor_rearrange_pooling,
    get_blockwise_mask,
    get_mask_index,
    inv_rearrange_with_remaining,
    rearrange_with_remaining,
)

__all__ = ["rain_fusion_attention", "avgpool", "do_tensor_inv_rearrange", "do_tensor_rearrange_pooling", "get_blockwise_mask", "get_mask_index",
           "inv_rearrange_with_remaining", "rearrange_with_remaining"]

_OP = "rain_fusion_attention"


def _bhsd(name: str, tensor: torch.Tensor, layout: str, lengths: Sequence[int]) -> torch.Tensor:
    """[batch, heads, tokens, head_dim] of a tensor in BNSD, or in TND with sequences of one length."""
    require(_OP, name, tensor, torch.Tensor)
    if layout == "BNSD" and tensor.dim() == 4:
        return tensor
    if layout != "TND" or tensor.dim() != 3:
        raise ParametersInvalid(f"[{_OP}] {name} must be [tokens, heads, head_dim] in TND or [batch, heads, tokens, head_dim] in BNSD, got "
                                f"{list(tensor.shape)} in {layout!r}")
    if len(set(lengths)) != 1 or sum(lengths) != tensor.shape[0]:
        raise ParametersInvalid(f"[{_OP}] actual_seq_lengths of {name} must be equal and sum to its {tensor.shape[0]} tokens, got {list(lengths)}")
    return tensor.unflatten(0, (len(lengths), -1)).transpose(1, 2)


def _lengths(name: str, given: Any, tensor: torch.Tensor, layout: str) -> list[int]:
    axis = 0 if layout == "TND" else 2
    lengths = [int(n) for n in given] if given is not None else [tensor.shape[axis]]
    if layout == "BNSD" and set(lengths) != {tensor.shape[2]}:
        raise ParametersInvalid(f"[{_OP}] {name} must be the {tensor.shape[2]} tokens of every sequence, got {lengths}")
    return lengths


def _mask(select_idx: torch.Tensor, select_num_idx: torch.Tensor, blocks: tuple[int, int, int, int]) -> torch.Tensor:
    """bool [batch, heads, query blocks, key blocks]."""
    batch, heads, q_blocks, k_blocks = blocks
    for name, indices in (("select_idx", select_idx), ("select_num_idx", select_num_idx)):
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise ParametersInvalid(f"[{_OP}] {name} must hold whole numbers, got {indices.dtype}")
    wanted = (batch * q_blocks, heads)
    if tuple(select_num_idx.shape) != wanted or select_idx.dim() != 3 or tuple(select_idx.shape[:2]) != wanted:
        raise ParametersInvalid(f"[{_OP}] select_idx must be [{wanted[0]}, {heads}, key blocks] and select_num_idx [{wanted[0]}, {heads}], got "
                                f"{list(select_idx.shape)} and {list(select_num_idx.shape)}")
    chosen = torch.arange(select_idx.shape[2]) < select_num_idx[..., None]
    indices = torch.where(chosen, select_idx, 0).long()
    if bool((select_num_idx > select_idx.shape[2]).any()) or bool(((indices < 0) | (indices >= k_blocks)).any()):
        raise ParametersInvalid(f"[{_OP}] select_idx must name blocks 0 to {k_blocks - 1}, as many as select_num_idx says")
    counted = torch.zeros(*wanted, k_blocks, dtype=torch.int32).scatter_add_(2, indices, chosen.int())
    return (counted > 0).unflatten(0, (batch, q_blocks)).transpose(1, 2).contiguous()


def _blockshape(given: Any) -> tuple[int, int]:
    """Tokens of a block of queries and of keys."""
    whole = isinstance(given, Sequence) and len(given) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given)
    if given is not None and not whole:
        raise ParametersInvalid(f"[{_OP}] blockshape must be two whole numbers of tokens from 1 on, got {given!r}")
    return (128, 128) if given is None else (given[0], given[1])


@invalid_arguments
def rain_fusion_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: Optional[float] = None,
                          head_num: Optional[int] = None, input_layout: str = "TND", select_idx: Optional[torch.Tensor] = None,
                          select_num_idx: Optional[torch.Tensor] = None, blockshape: Optional[Sequence[int]] = None,
                          actual_seq_lengths: Optional[Sequence[int]] = None, actual_seq_lengths_kv: Optional[Sequence[int]] = None,
                          inner_precise: int = 0) -> torch.Tensor:
    """softmax(scale q k^T) v over chosen blocks of keys.

    query, key, value: [batch, heads, tokens, head_dim] in "BNSD", or [tokens, heads, head_dim] in "TND" with the lengths of the sequences in
    actual_seq_lengths and actual_seq_lengths_kv (without them: one). blockshape: tokens of a block of queries and of keys, [128, 128] by
    default. select_idx: [batch * query blocks, heads, n] block indices of the keys that a block of queries sees, of which the first
    select_num_idx [batch * query blocks, heads] count. head_num, inner_precise: not needed.
    Returns a tensor like query. Raises ParametersInvalid for what does not fit."""
    lengths = _lengths("actual_seq_lengths", actual_seq_lengths, query, input_layout)
    k_lengths = _lengths("actual_seq_lengths_kv", actual_seq_lengths_kv, key, input_layout)
    q = _bhsd("query", query, input_layout, lengths)
    k, v = (_bhsd(name, t, input_layout, k_lengths) for name, t in (("key", key), ("value", value)))
    require(_OP, "select_idx", select_idx, torch.Tensor)
    require(_OP, "select_num_idx", select_num_idx, torch.Tensor)
    assert select_idx is not None and select_num_idx is not None
    block_q, block_k = _blockshape(blockshape)
    blocks = (q.shape[0], q.shape[1], -(-q.shape[2] // block_q), -(-k.shape[2] // block_k))
    o = attention(q, k, v, scale=scale, mask=_mask(select_idx, select_num_idx, blocks), block_size=(block_q, block_k))
    return o if input_layout == "BNSD" else o.transpose(1, 2).flatten(0, 1)
