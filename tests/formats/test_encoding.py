"""The encoders byte by byte against the formulas of the file format, written with NumPy and ml_dtypes."""

import subprocess

import ml_dtypes
import numpy as np
import pytest

F32 = np.float32
SHAPES = [(1, 1), (3, 31), (2, 33), (5, 64), (2, 512), (3, 1030)]


def weights(rows, columns, seed):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns)) * np.exp2(rng.integers(-12, 8, (rows, 1)))
    w[rng.random(w.shape) < 0.1] = 0
    w = np.where(rng.random(w.shape) < 0.3, np.round(w * 16) / 16, w)  # ties
    if seed % 2:  # a last row of E2M1's ties
        w[-1] = rng.choice([0.25, 0.75, -1.25, 1.75, -2.5, 3.5, -5, 6, -0.1], columns)
        w[-1, ::512] = 6
    if rows > 2:
        w[0] = 0
        w[1] *= 1e-38
    return w.astype(F32)


def run(build, name, w, group=0):
    result = subprocess.run([build / "tests/formats_dump", name, *map(str, w.shape), str(group)], input=w.tobytes(),
                            capture_output=True, check=True)
    return result.stdout


def groups(w, width):
    """[rows, blocks, width], zeros behind the last column."""
    pad = -w.shape[1] % width
    return np.pad(w, ((0, 0), (0, pad))).reshape(w.shape[0], -1, width)


def flat(blocks, columns):
    return blocks.reshape(blocks.shape[0], -1)[:, :columns]


def nibbles(codes):
    codes = np.pad(codes.astype(np.uint8) & 15, ((0, 0), (0, codes.shape[1] % 2)))
    return codes[:, 0::2] | codes[:, 1::2] << 4


def int4(w, width):
    b = groups(w, width)
    scale = np.maximum(np.abs(b).max(-1, keepdims=True) / F32(7), F32(2.0**-23))
    q = np.clip(np.rint(b / scale), -8, 7)
    codes = flat(q, w.shape[1]).astype(np.int8)
    return nibbles(codes.view(np.uint8)), scale, None, flat(q * scale, w.shape[1])


def fp8(dtype):
    def encode(w, width):
        b = groups(w, width)
        largest = F32(ml_dtypes.finfo(dtype).max)
        scale = np.maximum(np.abs(b).max(-1, keepdims=True) / largest, np.finfo(F32).tiny)
        q = np.clip(b / scale, -largest, largest).astype(dtype)
        return flat(q, w.shape[1]), scale, None, flat(q.astype(F32) * scale, w.shape[1])
    return encode


def mxfp8(w, _):
    b = groups(w, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    e = np.floor(np.log2(np.where(amax == 0, F32(2.0**-126), amax))) - 8
    e = np.maximum(e, -127).astype(int)
    v = np.ldexp(b, -e)
    pe = np.maximum(np.floor(np.log2(np.abs(v) + (v == 0))), -6).astype(F32)
    q = np.sign(v) * np.floor(np.abs(v) / np.exp2(pe) * F32(8) + F32(0.5)) / F32(8) * np.exp2(pe)
    q = np.clip(q, -448, 448)
    decoded = q * np.ldexp(F32(1), e)
    return flat(q.astype(ml_dtypes.float8_e4m3fn), w.shape[1]), (e + 127).astype(np.uint8), None, flat(
        decoded, w.shape[1])


def mxfp4(w, _):
    b = groups(w, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    e = np.clip(np.floor(np.log2(amax * F32(8) / F32(7) + F32(9.6e-7))) - 2, -129, 125).astype(int)
    v = np.ldexp(np.abs(b), -e)
    pe = np.exp2(np.clip(np.floor(np.log2(v + F32(9.6e-7))), 0, 2)).astype(F32)
    q = np.sign(b) * np.minimum(np.floor(v / pe * F32(2) + F32(0.5)) / F32(2) * pe, F32(6))
    codes = flat(q, w.shape[1]).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    return nibbles(codes), (e + 127).astype(np.uint8), None, flat(q * np.ldexp(F32(1), e), w.shape[1])


def mxfp4_dual(w, _):
    b = groups(w, 512)
    dual = np.abs(b).max(-1, keepdims=True) / F32(6)
    dual = np.where(dual < np.finfo(F32).tiny, F32(1), dual)
    data, scale, _, decoded = mxfp4(flat(b / dual, w.shape[1]), 0)
    return data, scale, dual, flat(groups(decoded, 512) * dual, w.shape[1])


FORMATS = {"int4": int4, "fp8_e4m3": fp8(ml_dtypes.float8_e4m3fn), "fp8_e5m2": fp8(ml_dtypes.float8_e5m2),
           "mxfp8": mxfp8, "mxfp4": mxfp4, "mxfp4_dual": mxfp4_dual}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_encodes_and_decodes_as_the_formulas_say(build, name, shape):
    for seed in range(5):
        w = weights(*shape, seed)
        for group in [0] + [g for g in (1, 32) if shape[1] % g == 0 and g < shape[1]]:
            wanted = FORMATS[name](w, group or shape[1])
            got, at = run(build, name, w, group), 0
            for what, array in zip(("data", "scale", "dual scale", "decoded"), wanted):
                if array is None:
                    continue
                array = np.ascontiguousarray(array)
                piece = np.frombuffer(got[at:at + array.nbytes], np.uint8)
                at += array.nbytes
                if what == "decoded":
                    np.testing.assert_array_equal(piece.view(F32), array.astype(F32).ravel(), what)
                else:
                    np.testing.assert_array_equal(piece, array.view(np.uint8).ravel(), what)
            assert at == len(got)
