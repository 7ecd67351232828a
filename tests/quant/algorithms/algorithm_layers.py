"""Layers with odd sizes and outliers for the tests of offline algorithms."""
import numpy as np
import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def layer(rows, columns, seed=0, dtype="f32"):
    """A Gaussian weight with outlier columns and single outliers, a row of zeros and a tiny one where there is room."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns)) * 0.02
    w[:, rng.random(columns) < 0.03] *= 8
    w[rng.random(w.shape) < 0.002] *= 20
    if rows > 3:
        w[1] = 0
        w[2] *= 1e-6
    return torch.from_numpy(w.astype(np.float32)).to(DTYPES[dtype])


def inputs(tokens, columns, seed=1, dead=()):
    """Correlated inputs with outlier channels; `dead` channels are zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, columns)) @ (np.eye(columns) + rng.standard_normal((columns, columns)) / columns**0.5 / 2)
    x[:, rng.random(columns) < 0.05] *= 20
    x[:, list(dead)] = 0
    return torch.from_numpy(x.astype(np.float32))


def unpack(data, columns):
    """Codes of int4 (two per byte, even column low) or int8 as float64 [n,k]."""
    if data.dtype == torch.int8:
        return data.double().numpy()
    bytes_ = data.numpy()
    codes = np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(bytes_.shape[0], -1)[:, :columns].astype(int)
    return np.where(codes > 7, codes - 16, codes).astype(float)
