"""Attention in float64 and the rounding of q, k and v to small formats, one block at a time."""
import numpy as np
import torch


def plain(q, k, v, scale=None):
    """[..., tokens, head_dim] in float64."""
    q, k, v = (t.double() for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return torch.softmax(scores, -1) @ v


def _nearest(values, grid):
    """Nearest of the non-negative grid to |values|, ties to the even index, saturating."""
    out = np.empty_like(values)
    for index, value in np.ndenumerate(values):
        distance = np.abs(grid - min(abs(value), grid[-1]))
        best = np.flatnonzero(distance == distance.min())
        out[index] = np.copysign(grid[best[best % 2 == 0][0] if len(best) > 1 else best[0]], value)
    return out


_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_E4M3 = np.arange(0x7F, dtype=np.uint8)


def _grid(element):
    return _E2M1 if element == "e2m1" else torch.from_numpy(_E4M3.copy()).view(torch.float8_e4m3fn).double().numpy()


def mx(t, element, axis):
    """OCP Microscaling along axis in blocks of 32, the last may be short."""
    out = t.double().numpy().copy()
    moved = np.moveaxis(out, axis, -1)
    emax = 2 if element == "e2m1" else 8
    for row in np.ndindex(moved.shape[:-1]):
        for start in range(0, moved.shape[-1], 32):
            block = moved[row][start:start + 32]
            largest = np.abs(block).max()
            if largest > 0:
                scale = 2.0 ** (np.floor(np.log2(largest)) - emax)
                block[:] = _nearest(block / scale, _grid(element)) * scale
    return torch.from_numpy(out)


def fp8(t, tokens):
    """[..., tokens, head_dim] in E4M3 with one scale, largest / 448, per block of tokens."""
    out = t.double().numpy().copy()
    for head in np.ndindex(out.shape[:-2]):
        for start in range(0, out.shape[-2], tokens):
            block = out[head][start:start + tokens]
            scale = np.abs(block).max() / 448
            if scale > 0:
                block[:] = _nearest(block / scale, _grid("e4m3")) * scale
    return torch.from_numpy(out)


def int8(t, tokens):
    """[..., tokens, head_dim] in whole numbers with one scale, largest / 127, per block of tokens."""
    out = t.double().numpy().copy()
    for head in np.ndindex(out.shape[:-2]):
        for start in range(0, out.shape[-2], tokens):
            block = out[head][start:start + tokens]
            scale = np.abs(block).max() / 127
            if scale > 0:
                block[:] = np.rint(block / scale) * scale
    return torch.from_numpy(out)


def rounded(q, k, v, format):
    """q, k, v [..., tokens, head_dim] as the format holds them."""
    if format == "mix":
        channels = fp8(v.transpose(-1, -2), 1)
        return int8(q, 64), int8(k, 64), channels.transpose(-1, -2)
    if format == "int8_qk":
        return int8(q, 1), int8(k, 1), v.double()
    if format == "fp8":
        return fp8(q, 128), fp8(k, 256), fp8(v, 256)
    element = "e2m1" if format == "mxfp4" else "e4m3"
    return mx(q, element, -1), mx(k, element, -1), mx(v, element, -2)


def static_int8(t, scale, offset):
    """[heads, tokens, head_dim] through int8 with one scale and offset per head."""
    scale, offset = (torch.as_tensor(a).double().reshape(-1, 1, 1) for a in (scale, offset))
    return ((t.double() / scale + offset).round().clamp(-128, 127) - offset) * scale
