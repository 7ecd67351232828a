"""Smoothing, AWQ, GPTQ and AutoRound against slow NumPy versions in double: GPTQ column by column with a fresh inverse for each."""
import numpy as np
import pytest
import torch
from algorithm_layers import inputs, layer, unpack

FLOOR = 2.0**-23
LIMITS = {8: (-128, 127), 4: (-8, 7)}
SHAPES = [(1, 1, 1), (5, 33, 20), (9, 70, 200)]


def f64(tensor):
    return tensor.double().numpy()


def minmax_scale(w, bits, dtype=torch.float32, asymmetric=False):
    """(scale, offset) of one group."""
    low, high = min(w.min(), 0), max(w.max(), 0)
    top = LIMITS[bits][1]
    scale = max((high - low) / (2**bits - 1) if asymmetric else max(-low, high) / top, FLOOR)
    offset = np.clip(np.rint(-low / scale) + LIMITS[bits][0], *LIMITS[bits]) if asymmetric else 0.0
    return max(torch.tensor(scale).float().to(dtype).double().item(), FLOOR), offset


def fake_quantize(w, bits, group, dtype=torch.float32):
    groups = w.reshape(w.shape[0], -1, group or w.shape[1])
    scale = np.array([[minmax_scale(g, bits, dtype)[0] for g in row] for row in groups])[..., None]
    return (np.clip(np.rint(groups / scale), *LIMITS[bits]) * scale).reshape(w.shape)


# --- smoothing ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("exponents", [(0.5, 0.5, 1e-5), (0.9, 0.1, 1e-5), (0.8, 0.2, 0.7)])
@pytest.mark.parametrize("shape", SHAPES)
def test_smoothing(run, shape, exponents, dtype):
    rows, columns, tokens = shape
    alpha, beta, scale_min = exponents
    w = layer(rows, columns, dtype=dtype)
    if columns > 5:
        w[:, 4] = 0
    x = inputs(tokens, columns, dead=[3] if columns > 5 else [])
    got = run("smooth", w, x, *exponents)
    a, m = np.abs(f64(x)).max(0), np.abs(f64(w)).max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where((a == 0) | (m == 0), 1, np.maximum(a**alpha / m**beta, scale_min))
    np.testing.assert_allclose(got["s"], s, rtol=1e-6)
    np.testing.assert_allclose(got["mul_scale"], 1 / s, rtol=1e-6)
    assert got["weight"].dtype == w.dtype
    assert torch.equal(got["weight"], (w.float() * got["s"]).to(w.dtype))


def asymmetric_int8(x):
    low, high = min(x.min(), 0), max(x.max(), 0)
    scale = max(high / 255 - low / 255, FLOOR)
    offset = np.rint(-low / scale) - 128
    return (np.clip(np.rint(x / scale + offset), -128, 127) - offset) * scale


def smoothed_loss(w, x, alpha, beta):
    s = np.maximum(np.abs(x).max(0) ** alpha / np.abs(w).max(0) ** beta, 1e-5)
    scale = np.maximum(np.abs(w * s).max(1, keepdims=True) / 127, FLOOR)
    y = asymmetric_int8(x / s) @ (np.clip(np.rint(w * s / scale), -127, 127) * scale).T
    return ((y - x @ w.T) ** 2).sum() / ((x @ w.T) ** 2).sum()


@pytest.mark.parametrize("shape", [(6, 33, 40), (9, 70, 100)])
def test_smoothing_search(run, shape):
    """The exponents found are as good as the best of an exhaustive search in the same two phases."""
    rows, columns, tokens = shape
    w, x = layer(rows, columns, seed=2), inputs(tokens, columns)
    alpha, beta = run("smooth_search", w, x)["exponents"].tolist()
    w, x = f64(w), f64(x)
    grid = [i / 20 for i in range(21)]
    first = min(smoothed_loss(w, x, a, 1 - a) for a in grid)
    best_alpha = max((a for a in grid if smoothed_loss(w, x, a, 1 - a) <= first * 1.001))
    best = min(smoothed_loss(w, x, best_alpha, b) for b in grid)
    assert smoothed_loss(w, x, alpha, beta) <= best * 1.01
    assert smoothed_loss(w, x, alpha, beta) < 0.5 * smoothed_loss(w, x, 0, 0)


def test_layers_must_fit(run):
    with pytest.raises(ValueError, match=r"channel maxima must be f32\[33\], got f32\[34\]"):
        run("smooth", layer(5, 33), inputs(4, 34), 0.5, 0.5, 1e-5)
    with pytest.raises(ValueError, match="scale_min must be positive, got 0"):
        run("smooth", layer(5, 33), inputs(4, 33), 0.5, 0.5, 0)
    for name in ("awq", "gptq"):
        with pytest.raises(ValueError, match=r"must have the 33 columns of the weight, got f32\[4,34\]"):
            run(name, layer(5, 33), inputs(4, 34), 4, 0, 0, 0.01, 128)


# --- AWQ ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 0), (4, 11)])
def test_awq(run, bits, group, dtype):
    w, x = layer(9, 33, dtype=dtype), inputs(50, 33, dead=[7])
    got = run("awq", w, x, bits, group, 0)
    wd, xd = f64(w), f64(x)
    losses, scales = [], []
    for i in range(20):
        v = np.maximum(np.abs(xd).mean(0) ** (i / 20), 1e-4)
        s = v / np.sqrt(v.max() * v.min())
        scaled = f64(torch.from_numpy(wd * s).float().to(w.dtype))
        losses.append((((fake_quantize(scaled, bits, group, w.dtype) / s - wd) @ xd.T) ** 2).sum())
        scales.append(s)
    ratio, error, plain = got["found"].tolist()
    assert error == pytest.approx(min(losses), rel=2e-3) and plain == pytest.approx(losses[0], rel=2e-3)
    at = round(ratio * 20)
    assert losses[at] <= min(losses) * 1.002
    np.testing.assert_allclose(got["s"], scales[at], rtol=1e-5)
    assert error < plain


# --- GPTQ --------------------------------------------------------------------------------------------------

def gptq(w, x, grid, damping, dtype):
    """Optimal brain quantization in column order: (q - offset) * scale."""
    bits, group, asymmetric = grid
    w = w.copy()
    h = 2 / x.shape[0] * x.T @ x
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += np.eye(len(h)) * damping * np.diag(h).mean()
    width = group or w.shape[1]
    out = np.zeros_like(w)
    for k in range(w.shape[1]):
        if k % width == 0:
            by = np.array([minmax_scale(row.astype(np.float32).astype(float), bits, dtype, asymmetric)
                           for row in w[:, k:k + width]])
        scale, offset = by.T
        out[:, k] = (np.clip(np.rint(w[:, k] / scale + offset), *LIMITS[bits]) - offset) * scale
        inverse = np.linalg.inv(h[k:, k:])
        w[:, k:] -= np.outer((w[:, k] - out[:, k]) / inverse[0, 0], inverse[0])
    return out


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("bits", "group", "asymmetric"), [(8, 0, 0), (4, 0, 0), (4, 11, 0), (4, 11, 1), (8, 33, 1)])
def test_gptq(run, bits, group, asymmetric, dtype):
    w, x = layer(37, 33, seed=4, dtype=dtype), inputs(60, 33, dead=[5])
    got = f64(run("gptq", w, x, bits, group, asymmetric, 0.01, 128)["decoded"])
    expected = gptq(f64(w), f64(x), (bits, group, asymmetric), 0.01, w.dtype)
    # A value halfway between two codes may round either way, and its row then goes another way.
    same = np.isclose(got, expected, rtol=1e-5, atol=1e-12).all(1)
    assert same.mean() >= 0.97
    assert not got[:, 5].any()


@pytest.mark.parametrize("block", [1, 7, 32, 1000])
def test_gptq_blocks_change_nothing(run, block):
    w, x = layer(20, 70, seed=4), inputs(150, 70)
    reference = run("gptq", w, x, 4, 0, 0, 0.01, 128)
    got = run("gptq", w, x, 4, 0, 0, 0.01, block)
    assert (got["data"] == reference["data"]).double().mean() > 0.99
    assert torch.equal(got["scale"], reference["scale"])


def test_gptq_corrects(run):
    """Its output errs clearly less than that of the nearest integers with the same scales."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((300, 20)) @ rng.standard_normal((20, 130)) + 0.3 * rng.standard_normal((300, 130))
    w, x = layer(40, 130, seed=5), torch.from_numpy(x.astype(np.float32))
    error = lambda v: np.linalg.norm((v - f64(w)) @ f64(x).T)
    got = f64(run("inputs:gptq:int4", w, x, 0)["decoded"])
    assert error(got) < 0.8 * error(fake_quantize(f64(w), 4, 0))


def test_gptq_needs_a_definite_hessian(run):
    with pytest.raises(ValueError, match="not positive definite: more damping is needed"):
        run("gptq", layer(5, 33), inputs(4, 33), 4, 0, 0, 0, 128)
    with pytest.raises(ValueError, match="damping must not be negative and block at least 1, got -1 and 128"):
        run("gptq", layer(5, 33), inputs(40, 33), 4, 0, 0, -1, 128)


# --- AutoRound ---------------------------------------------------------------------------------------------

def autoround(w, x, bits, group, steps=200):
    """Signed gradient descent with the gradient through the rounding written out: the loss of every row's best, and its scales."""
    h, width = x.T @ x / len(x), group or w.shape[1]
    losses, scales = [], []
    for row in w:
        start = np.array([minmax_scale(g, bits)[0] for g in row.reshape(-1, width)])
        v, factor, best = np.zeros_like(row), np.ones_like(start), (np.inf, None)
        for step in range(steps + 1):
            s = (start * factor).astype(np.float32).astype(float)
            wide = np.repeat(s, width)
            exact = np.rint(row / wide + v)
            code = np.clip(exact, *LIMITS[bits])
            difference = code * wide - row
            gradient = difference @ h
            best = min(best, (difference @ gradient, tuple(s)))
            rate = (steps - step) / steps**2
            inside = code == exact
            of_scale = (gradient * (code - np.where(inside, row / wide, 0))).reshape(-1, width).sum(1)
            v = np.where(inside, np.clip(v - rate * np.sign(gradient), -0.5, 0.5), v)
            factor = np.clip(factor - rate * np.sign(of_scale), 0.5, 1)
        losses.append(best[0])
        scales.append(best[1])
    return np.array(losses), np.array(scales)


def correlated(tokens, columns, seed=5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, 20)) @ rng.standard_normal((20, columns)) + 0.3 * rng.standard_normal((tokens, columns))
    return torch.from_numpy(x.astype(np.float32))


def gaussian(rows, columns, seed=4):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


@pytest.mark.parametrize(("bits", "group"), [(4, 0), (4, 11), (8, 0)])
def test_autoround(run, bits, group):
    """Signs of gradients near zero differ between float32 and double, so that rows are compared by what they reach."""
    w, x = gaussian(12, 66), correlated(90, 66)
    got = run(f"inputs:autoround:int{bits}", w, x, group)
    losses, scales = autoround(f64(w), f64(x), bits, group)
    difference = f64(got["decoded"]) - f64(w)
    reached = ((difference @ f64(x).T) ** 2).sum(1) / 90
    np.testing.assert_allclose(np.log(reached), np.log(losses), atol=0.5)
    assert abs(np.log(reached / losses).mean()) < 0.05
    assert (np.abs(np.log(f64(got["scale"]) / scales)) < 0.1).mean() > 0.9
    codes = f64(got["decoded"]) / np.repeat(f64(got["scale"]), group or 66, axis=1)
    np.testing.assert_allclose(codes, np.clip(np.rint(codes), *LIMITS[bits]), atol=1e-4)


def test_autoround_beside_minmax(run):
    """No row is worse, and all together are clearly better."""
    w, x = gaussian(40, 130), correlated(300, 130)
    rows = lambda v: np.linalg.norm((v - f64(w)) @ f64(x).T, axis=1)
    error = rows(f64(run("inputs:autoround:int4", w, x, 0)["decoded"]))
    plain = rows(fake_quantize(f64(w), 4, 0))
    assert (error <= plain * (1 + 1e-5)).all()
    assert np.linalg.norm(error) < 0.6 * np.linalg.norm(plain)


def test_autoround_with_offsets_and_dead_inputs(run):
    w, x = layer(9, 70, seed=4), inputs(200, 70, dead=[3])
    got = run("inputs:autoround:int8", w, x, 35)
    assert "offset" not in got and torch.isfinite(got["decoded"]).all()
    with pytest.raises(ValueError, match="autoround"):
        run("inputs:autoround:int4", w, inputs(200, 71), 0)


# --- rows of the table -------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "bits"), [("smoothquant", 8), ("awq", 8), ("awq", 4), ("gptq", 8), ("gptq", 4), ("autoround", 8), ("autoround", 4)])
def test_rows_stay_near_the_layer(run, name, bits):
    """y = (x * mul_scale) decoded^T is the layer's output but for the rounding of `bits` bits."""
    w, x = layer(20, 66, seed=6), inputs(90, 66)
    got = run(f"inputs:{name}:int{bits}", w, x, 0)
    assert unpack(got["data"], 66).shape == (20, 66)
    y = (f64(x) * f64(got["mul_scale"]) if "mul_scale" in got else f64(x)) @ f64(got["decoded"]).T
    expected = f64(x) @ f64(w).T
    assert np.linalg.norm(y - expected) < {8: 0.02, 4: 0.25}[bits] * np.linalg.norm(expected)


def test_data_free_lookup_says_that_inputs_are_needed(run):
    with pytest.raises(ValueError, match="algorithm 'gptq' needs recorded inputs; without, there are: minmax"):
        run("row:gptq:int4", layer(5, 33))
