"""Gradients of attention: the kernels compute what comes out, torch's attention what goes back.

q, k and v get the gradients of float attention at their values, which is exact for `aerogel.attention` and, for formats in few bits, what
quantized Linear layers do with their dequantized weight (straight-through)."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention


def _tokens_seen(mask: Any, blocks: tuple[int, int], lengths: tuple[int, int], device: torch.device) -> torch.Tensor:
    """bool [batch, heads, q_len, k_len] of a mask of blocks."""
    seen = torch.as_tensor(mask, device=device) != 0
    for axis, (block, length) in enumerate(zip(blocks, lengths), start=2):
        seen = seen.repeat_interleave(block, dim=axis).narrow(axis, 0, length)
    return seen


def _float_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """The same problem by torch. options: layout, scale (None: the default), causal, and mask with block where blocks are given."""
    if options["layout"] != "BNSD":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    lengths, seen = (q.shape[2], k.shape[2]), None
    if options.get("mask") is not None:
        seen = _tokens_seen(options["mask"], options["block"], lengths, q.device)
    if options.get("causal"):
        below = torch.ones(lengths, dtype=torch.bool, device=q.device).tril(lengths[1] - lengths[0])
        seen = below if seen is None else seen & below
    o = scaled_dot_product_attention(q, k, v, seen, scale=options["scale"], enable_gqa=q.shape[1] != k.shape[1])
    return o if options["layout"] == "BNSD" else o.transpose(1, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, compute: Callable[..., torch.Tensor], options: dict[str, Any]) -> torch.Tensor:
        return compute(q, k, v)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.options = inputs[4]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        _, back = torch.func.vjp(lambda q, k, v: _float_attention(q, k, v, ctx.options), *ctx.saved_tensors)
        return (*back(grad), None, None)


def with_gradients(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, compute: Callable[..., torch.Tensor],
                   options: dict[str, Any]) -> torch.Tensor:
    """compute(q, k, v), through which gradients flow."""
    if "mask" in options:  # backward needs it as it is now
        options = {**options, "mask": torch.as_tensor(options["mask"]).clone()}
    return _Attention.apply(q, k, v, compute, options)
