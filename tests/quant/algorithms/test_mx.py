"""mse_round, ceil_x and fouroversix byte by byte against the formulas of the file format in NumPy: every candidate value of
the element format is tried, instead of any arithmetic on exponents."""
import numpy as np
import pytest
import torch
from algorithm_layers import layer

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
SHAPES = [(1, 1), (3, 31), (2, 33), (5, 64), (4, 130), (9, 321)]


def blocks(w):
    w = w.float().numpy()
    return np.pad(w, ((0, 0), (0, -w.shape[1] % 32))).reshape(w.shape[0], -1, 32)


def rounded(b, e, values):
    """Nearest value to |b| / 2^e, the larger of two equally near, with the sign of b; times 2^e."""
    v = np.abs(b.astype(np.float64)) / np.exp2(e)[..., None]
    bounds = (values[1:] + values[:-1]) / 2
    q = values[np.searchsorted(bounds, v, side="right")]
    return np.sign(b) * q * np.exp2(e)[..., None]


def error(b, e, values):
    return ((b - rounded(b, e, values)) ** 2).sum(-1)


def amax(b):
    return np.abs(b).max(-1)


def mse_round(b):
    a = amax(b)
    log = np.log2(np.where(a == 0, np.float32(2.0**-126), a))
    down, up = (np.maximum(f(log) - 8, -127).astype(float) for f in (np.floor, np.ceil))
    return np.where(error(b, up, E4M3) < error(b, down, E4M3), up, down), E4M3


def ceil_x(b, c=7.25):
    return np.ceil(np.log2(amax(b) / np.float32(c) + np.float32(9.6e-7))).clip(-129, 125).astype(float), E2M1


def ceil_x_search(b):
    candidates = [ceil_x(b, c)[0] for c in np.arange(6, 12.1, 0.25)]
    return candidates[int(np.argmin([error(b, e, E2M1).sum() for e in candidates]))], E2M1


def four_over_six(b):
    def nearest(target):
        log = np.log2(np.where(amax(b) == 0, 1, amax(b)) / np.float32(target))
        down = np.floor(log)
        tie = np.abs(log - down - np.float32(0.5)) <= 1e-6
        return (down + np.where(tie, down % 2 == 0, log - down > 0.5)).astype(float)
    six, four = nearest(6), nearest(4)
    six, four = (np.where(amax(b) == 0, 0, e) for e in (six, four))
    return np.where(error(b, six, E2M1) <= error(b, four, E2M1), six, four), E2M1


CASES = {"row:mse_round:mxfp8": mse_round, "row:ceil_x:mxfp4": ceil_x, "row:ceil_x_search:mxfp4": ceil_x_search,
         "row:fouroversix:mxfp4": four_over_six}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_against_the_formulas(run, name, shape, dtype):
    w = layer(*shape, seed=sum(shape), dtype=dtype)
    if shape[0] > 4:  # ties and the values between 4 and 6
        w[0] = torch.round(torch.randn(shape[1]) * 16) / 16
    got = run(name, w)
    b = blocks(w)
    e, values = CASES[name](b)
    np.testing.assert_array_equal(got["scale"].numpy(), np.maximum(e + 127, 0).astype(np.uint8))
    expected = rounded(b, e, values).reshape(shape[0], -1)[:, :shape[1]]
    np.testing.assert_array_equal(got["decoded"].double().numpy(), expected)


def test_every_ceiling_is_tried(run):
    """Layers whose best ceiling is an odd multiple of a quarter: a coarser search finds another."""
    odd = 0
    for seed in range(12):
        w = layer(3, 256, seed=seed)
        b = blocks(w)
        errors = [error(b, ceil_x(b, c)[0], E2M1).sum() for c in np.arange(6, 12.1, 0.25)]
        odd += int(np.argmin(errors)) % 2
        np.testing.assert_array_equal(run("row:ceil_x_search:mxfp4", w)["scale"], ceil_x_search(b)[0] + 127)
    assert odd >= 3


@pytest.mark.parametrize(("name", "plain"), [("row:mse_round:mxfp8", "mxfp8"), ("row:ceil_x_search:mxfp4", "mxfp4"),
                                             ("row:fouroversix:mxfp4", "mxfp4")])
def test_errs_less_than_the_largest_magnitude_rule(run, name, plain):
    """On a Gaussian layer; mse_round can never be worse, the others are so here."""
    w = layer(64, 512)
    b = blocks(w)
    if plain == "mxfp8":
        floor = error(b, np.maximum(np.floor(np.log2(np.where(amax(b) == 0, 2.0**-126, amax(b)))) - 8, -127), E4M3).sum()
    else:
        floor = error(b, np.floor(np.log2(amax(b) * 8 / 7 + 9.6e-7)) - 2, E2M1).sum()
    got = ((run(name, w)["decoded"] - w).double() ** 2).sum().item()
    assert got < floor


@pytest.mark.parametrize("name", CASES)
def test_refuses_what_is_no_finite_matrix(run, name):
    w = layer(3, 40)
    w[1, 33] = float("nan")
    with pytest.raises(ValueError, match=r"not finite in row 1, column 33"):
        run(name, w)
    with pytest.raises(ValueError, match=r"must be a contiguous f32, bf16 or f16 matrix, not empty, got f32\[40\]"):
        run(name, torch.zeros(40))


def test_huge_and_denormal_weights(run):
    for name in CASES:
        w = torch.tensor([[3e38, -1.0], [1e-42, -1e-44]])
        assert torch.isfinite(run(name, w)["decoded"]).all()


@pytest.mark.parametrize("c", [5.9, 12.1, float("nan")])
def test_the_ceiling_has_limits(run, c):
    with pytest.raises(ValueError, match=r"the ceiling must be in \[6, 12\], got"):
        run("ceil_x", layer(2, 32), None, c)
