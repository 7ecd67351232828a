"""One attention call of a model, as torch's scaled_dot_product_attention has it."""
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .._devices import why_not_here
from .._watching import transformed

MOST_HEAD_DIM = 256  # of the core


@dataclass
class Problem:
    """One attention call. q, k, v: [batch, tokens, heads, head_dim] ("BSND") or [batch, heads, tokens, head_dim] ("BNSD"); the rest as
    in torch's scaled_dot_product_attention."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    layout: str
    mask: torch.Tensor | None = None
    dropout: float = 0.0
    causal: bool = False
    scale: float | None = None
    gqa: bool = False
    gathered: bool = False  # the tokens come from several processes, each with its part of every kind of token

    @property
    def axis(self) -> int:
        """The axis of the tokens."""
        return self.layout.index("S")

    def wants_gradients(self) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.q, self.k, self.v))

    @property
    def given_mask(self) -> torch.Tensor | None:
        """The mask as torch's attention broadcasts it; diffusers' dispatcher takes [batch, keys] too."""
        if self.mask is not None and self.layout == "BSND" and tuple(self.mask.shape) == (self.q.shape[0], self.k.shape[1]):
            return self.mask[:, None, None]
        return self.mask

    def why_torch(self) -> str:
        """Why Aerogel cannot compute this, apart from the mask; empty if it can."""
        if why := why_not_here(self.q):
            return f"tensors must be {why}"
        if self.k.device != self.q.device or self.v.device != self.q.device:
            return f"q is on {self.q.device}, k on {self.k.device}, v on {self.v.device}"
        if self.wants_gradients() or transformed():
            return "gradients are wanted"
        if self.causal or self.dropout:
            return "attention is causal or has dropout"
        if any(t.ndim != 4 or t.shape[0] != self.q.shape[0] for t in (self.q, self.k, self.v)):
            return f"q is {list(self.q.shape)}, k {list(self.k.shape)}, v {list(self.v.shape)} (of 4 axes and one batch, they are computed)"
        if self.scale is not None and not 0 < self.scale < math.inf:
            return f"scale is {self.scale}"
        if self.q.shape[-1] > MOST_HEAD_DIM or self.v.shape[-1] != self.k.shape[-1]:
            return f"head_dim is {self.q.shape[-1]}, that of v {self.v.shape[-1]} (of one size, at most {MOST_HEAD_DIM}, are computed)"
        return "" if self.q.dtype in (torch.float32, torch.bfloat16, torch.float16) else f"tensors are {self.q.dtype}"
