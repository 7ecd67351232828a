"""Integer scales: SSZ, percentile and squared-error clipping against the same rules in NumPy, row by row in double."""
import numpy as np
import pytest
import torch
from algorithm_layers import layer, unpack

LIMITS = {8: (-128, 127), 4: (-8, 7)}
FLOOR = 2.0**-23
CASES = [(1, 1, 0), (5, 33, 0), (4, 96, 32), (7, 130, 26), (12, 257, 0)]
DTYPES = ["f32", "bf16"]


def stored(scale, dtype):
    return max(torch.tensor(scale, dtype=torch.float32).to(dtype).double().item(), FLOOR)


def code(w, scale, offset, bits):
    return np.clip(np.rint(w / scale + offset), *LIMITS[bits])


def error(w, scale, offset, bits):
    return ((w - (code(w, scale, offset, bits) - offset) * scale) ** 2).sum()


def minmax(w, bits, asymmetric):
    low, high = min(w.min(), 0), max(w.max(), 0)
    if not asymmetric:
        return max(max(-low, high) / LIMITS[bits][1], FLOOR), 0.0
    scale = max((high - low) / (2**bits - 1), FLOOR)
    return scale, np.clip(np.rint(-low / scale) + LIMITS[bits][0], *LIMITS[bits])


def ssz(w, bits, asymmetric, dtype, iterations=50):
    scale, offset = minmax(w, bits, asymmetric)
    scale = stored(scale, dtype)
    tried = [(error(w, scale, offset, bits), scale, offset)]
    for _ in range(iterations):
        q = code(w, scale, offset, bits)
        if asymmetric:  # a line through (q, w)
            if np.all(q == q[0]):
                break
            a, b = np.linalg.lstsq(np.stack([q, np.ones_like(q)], 1), w, rcond=None)[0]
            scale, offset = a, np.clip(np.rint(-b / a), *LIMITS[bits])
        else:
            scale = (w @ q) / (q @ q) if q.any() else 0
        if scale < FLOOR:
            break
        tried.append((error(w, stored(scale, dtype), offset, bits), stored(scale, dtype), offset))
    return min(tried, key=lambda t: t[0])


def groups(w, width):
    return w.double().numpy().reshape(-1, width or w.shape[1])


def check(got, w, group, best):
    """Scales and squared errors of every group are those of `best`, and the decoded weight is made from them."""
    scale = got["scale"].double().numpy().reshape(-1)
    offset = got["offset"].double().numpy().reshape(-1) if "offset" in got else np.zeros_like(scale)
    q = unpack(got["data"], w.shape[1]).reshape(scale.size, -1)
    for i, values in enumerate(groups(w, group)):
        expected, expected_scale, expected_offset = best(values)
        assert scale[i] == pytest.approx(expected_scale, rel=1e-6) and offset[i] == expected_offset
        assert ((values - (q[i] - offset[i]) * scale[i]) ** 2).sum() == pytest.approx(expected, rel=1e-5, abs=1e-18)
    np.testing.assert_allclose(got["decoded"].reshape(q.shape).numpy(), (q - offset[:, None]) * scale[:, None], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("asymmetric", [0, 1])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_ssz(run, case, bits, asymmetric, dtype):
    rows, columns, group = case
    w = layer(rows, columns, seed=columns, dtype=dtype) + (0.05 if asymmetric else 0)
    got = run("ssz", w, None, bits, group, asymmetric, 50)
    check(got, w, group, lambda values: ssz(values, bits, asymmetric, w.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_mse_clip(run, case, bits, dtype):
    rows, columns, group = case
    w = layer(rows, columns, seed=columns, dtype=dtype)

    def best(values):
        full = stored(minmax(values, bits, False)[0], w.dtype)
        scales = [full] + [stored(full * (100 - i) / 100, w.dtype) for i in range(1, 100)]
        errors = [error(values, s, 0, bits) for s in scales]
        return min(errors), scales[int(np.argmin(errors))], 0
    check(run("mse_clip", w, None, bits, group, 0), w, group, best)


@pytest.mark.parametrize("percent", [100, 99.9, 90, 1])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("case", CASES)
def test_percentile(run, case, bits, percent):
    rows, columns, group = case
    w = layer(rows, columns, seed=columns)

    def best(values):
        scale = stored(np.percentile(np.abs(values), percent) / LIMITS[bits][1], w.dtype)
        return error(values, scale, 0, bits), scale, 0
    check(run("percentile", w, None, bits, group, 0, percent), w, group, best)


def test_the_tables_rows_are_these_functions(run):
    w = layer(9, 70)
    for name, rest in (("ssz", (50,)), ("mse_clip", ()), ("percentile", (99.9,))):
        for bits in (8, 4):
            row, call = run(f"row:{name}:int{bits}", w), run(name, w, None, bits, 0, 0, *rest)
            assert all(torch.equal(row[key], call[key]) for key in call)


@pytest.mark.parametrize("name", ["ssz", "mse_clip", "percentile"])
def test_errors(run, name):
    with pytest.raises(ValueError, match=r"group_size must divide the 33 columns \(0: the whole row\), got 32"):
        run(name, layer(2, 33), None, 8, 32, 0, 50)
    with pytest.raises(ValueError, match="not finite in row 0, column 2"):
        run(name, torch.tensor([[1.0, 2.0, float("inf")]]), None, 8, 0, 0, 50)
    if name != "ssz":
        with pytest.raises(ValueError, match="symmetric"):
            run(name, layer(2, 33), None, 8, 0, 1, 50)


@pytest.mark.parametrize("percent", [0, 101, float("nan")])
def test_percentiles_have_limits(run, percent):
    with pytest.raises(ValueError, match=r"must be in \(0, 100\], got"):
        run("percentile", layer(2, 3), None, 8, 0, 0, percent)
