"""Ranges of activations against NumPy and PyTorch's HistogramObserver."""
import numpy as np
import pytest
import torch
from torch.ao.quantization.observer import HistogramObserver


def forwards(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * rng.uniform(0.5, 3, (rows, 1)) + 0.3
    x[rng.random(x.shape) < 0.0005] *= 15
    return torch.from_numpy(x.astype(np.float32))


def kl_threshold(counts, low, high, levels=128):
    """Migacz, slide 38, with |x| folded from the histogram's bins."""
    bins = counts.size
    centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
    width = max(abs(low), abs(high)) / bins
    magnitudes = np.bincount(np.minimum(np.abs(centres) / width, bins - 1).astype(int), weights=counts, minlength=bins)
    losses = {}
    for kept in range(levels, bins + 1):
        sliced = magnitudes[:kept]
        p = sliced.copy()
        p[-1] += magnitudes[kept:].sum()
        q = np.zeros(kept)
        for chunk in np.split(np.arange(kept), [(i + 1) * kept // levels for i in range(levels - 1)]):
            filled = chunk[sliced[chunk] > 0]
            if filled.size:
                q[filled] = sliced[chunk].sum() / filled.size
        p, q = p / p.sum(), q / q.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            losses[kept] = np.where(p > 0, p * np.log(p / q), 0).sum()
    return min(losses, key=lambda kept: (losses[kept], kept)) * width


@pytest.mark.parametrize("shape", [(1, 7), (3, 1001), (9, 333)])
def test_simple_ranges(run, shape):
    x = forwards(*shape)
    got = run("ranges", None, x, 256, 99)
    lows, highs = x.min(1).values.double(), x.max(1).values.double()
    torch.testing.assert_close(got["extreme"], torch.stack([lows.min(), highs.max()]), rtol=0, atol=0)
    torch.testing.assert_close(got["mean"], torch.stack([lows.mean(), highs.mean()]), rtol=1e-7, atol=0)
    np.testing.assert_allclose(got["percentile"], np.percentile(x.double().numpy(), [1, 99]), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 500), (4, 1001), (40, 77)])
def test_the_histogram_keeps_every_value(run, shape):
    """Its last edges hold everything; a histogram of all values over the same edges has the same counts."""
    x = forwards(*shape, seed=3)
    got = run("ranges", None, x, 256, 99)
    low, high = got["edges"].tolist()
    bins = np.clip((x.double().numpy() - low) / (high - low) * 256, 0, 255).astype(int)
    expected = np.bincount(bins.ravel(), minlength=256)
    assert low <= x.min() and high >= x.max() and got["counts"].sum() == x.numel()
    # A value on an edge may fall to either side while pairs merge.
    assert np.abs(got["counts"].numpy() - expected).sum() <= 2 * shape[0]


@pytest.mark.parametrize("seed", range(4))
def test_squared_error_range_is_that_of_pytorch(run, seed):
    x = forwards(1, 200_000, seed)
    observer = HistogramObserver(bins=2048, dtype=torch.qint8, qscheme=torch.per_tensor_affine)
    observer(x)
    expected = torch.stack(observer._non_linear_param_search()).double()
    width = (x.max() - x.min()).item() / 2048
    # PyTorch adds in float32, so its search may stop a step or two elsewhere.
    torch.testing.assert_close(run("ranges", None, x, 2048, 99)["mse"], expected, rtol=0, atol=4 * width)
    assert expected[1] - expected[0] < 0.95 * (x.max() - x.min())


@pytest.mark.parametrize("seed", range(3))
def test_divergence_range(run, seed):
    x = forwards(1, 20_000, seed)
    got = run("ranges", None, x, 512, 99)
    threshold = kl_threshold(got["counts"].numpy(), *got["edges"].tolist())
    expected = [max(x.min().item(), -threshold), min(x.max().item(), threshold)]
    np.testing.assert_allclose(got["kl"], expected, rtol=1e-6)


def test_constant_inputs_and_errors(run):
    got = run("ranges", None, torch.full((2, 9), 1.5), 256, 99)
    for name in ("extreme", "mean", "percentile", "mse", "kl"):
        assert got[name].tolist() == [1.5, 1.5]
    x = torch.zeros(1, 4)
    x[0, 2] = float("nan")
    with pytest.raises(ValueError, match="value 2 of 4 is not finite"):
        run("ranges", None, x, 256, 99)
    with pytest.raises(ValueError, match="bins must be even and at least 2, got 3"):
        run("ranges", None, torch.zeros(1, 4), 3, 99)
    with pytest.raises(ValueError, match=r"percentile must be in \(50, 100\], got 50"):
        run("ranges", None, torch.zeros(1, 4), 256, 50)
