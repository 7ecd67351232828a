"""Calls of aerogel.sparse_attention on NumPy arrays in every layout, and their outputs beside exact attention under a mask."""

from dataclasses import dataclass, field

import aerogel
import numpy as np
import rainfusion_reference as reference


@dataclass
class Arrays:
    """[batch, heads, tokens, head_dim]; k and v may have fewer heads."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    layout: str = "BNSD"
    options: dict = field(default_factory=dict)

    @property
    def scale(self):
        return np.float32(1) / np.sqrt(np.float32(self.q.shape[-1]))

    def laid_out(self, array):
        if self.layout == "BNSD":
            return array
        array = array.transpose(0, 2, 1, 3)
        return array[0] if self.layout == "TND" else array

    def back(self, array):
        array = array[None] if self.layout == "TND" else array
        return array if self.layout == "BNSD" else array.transpose(0, 2, 1, 3)

    def call(self, **options):
        """(o [batch, heads, tokens, head_dim], mask, report)."""
        arrays = (self.laid_out(x) for x in (self.q, self.k, self.v))
        options = {"input_layout": self.layout, **self.options, **options}
        o, mask, report = aerogel.sparse_attention(*arrays, return_mask=True, return_report=True, **options)
        return self.back(o), mask != 0, report

    def heads(self):
        """(index, q, k, v) of every head; k and v are those of its group."""
        batch, heads = self.q.shape[:2]
        group = heads // self.k.shape[1]
        for b in range(batch):
            for h in range(heads):
                yield (b, h), self.q[b, h], self.k[b, h // group], self.v[b, h // group]


def coarse(rng, *shape):
    """Multiples of 1/8 in [-2, 2]: all sums of their products are exact in float32, in any order."""
    return rng.integers(-16, 17, shape).astype(np.float32) / 8


def make(rng, *, q_len, k_len=None, heads=(1, 2), kv_heads=None, head_dim=32, layout="BNSD", values=coarse):
    k_len = k_len or q_len
    batch, count = heads
    k_shape = (batch, kv_heads or count, k_len, head_dim)
    return Arrays(values(rng, batch, count, q_len, head_dim), values(rng, *k_shape), values(rng, *k_shape), layout)


def check_output(arrays, o, pairs_of):
    """pairs_of(index) -> [q_len, k_len] bool. Rows without any pair are zeros."""
    for index, q, k, v in arrays.heads():
        pairs = pairs_of(index)
        seen = pairs.any(axis=1)
        assert (o[index][~seen] == 0).all()
        out, bound = reference.attention(q[seen], k, v, float(arrays.scale), pairs[seen])
        error = np.abs(o[index][seen].astype(np.float64) - out).max(axis=1)
        assert (error <= bound).all(), f"head {index}: error {error.max()}, bound {bound[error.argmax()]}"
