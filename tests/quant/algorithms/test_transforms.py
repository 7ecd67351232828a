"""The low-rank split against the exact SVD, the Hadamard rotation against its matrix."""
import numpy as np
import pytest
import torch
from algorithm_layers import inputs, layer


def decaying(rows, columns, seed=0):
    """Singular values 1, 1/2, 1/3 ..."""
    rng = np.random.default_rng(seed)
    u, _, v = np.linalg.svd(rng.standard_normal((rows, columns)), full_matrices=False)
    return torch.from_numpy((u / np.arange(1, u.shape[1] + 1) @ v).astype(np.float32))


@pytest.mark.parametrize(("rows", "columns", "rank"), [(1, 1, 1), (33, 70, 5), (90, 41, 8), (40, 40, 40), (130, 257, 32)])
def test_low_rank_is_nearly_the_best(run, rows, columns, rank):
    w = decaying(rows, columns)
    got = run("low_rank", w, None, rank, 42)
    l1, l2, residual = (got[k].double() for k in ("l1", "l2", "residual"))
    assert l1.shape == (rank, columns) and l2.shape == (rows, rank)
    torch.testing.assert_close(l1 @ l1.T, torch.eye(rank, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(residual, w.double() - l2 @ l1, rtol=0, atol=1e-7)
    best = np.sqrt((np.linalg.svd(w.double().numpy(), compute_uv=False)[rank:] ** 2).sum())
    # Halko et al., theorem 10.5 and the power iterations of corollary 10.10: close to the best.
    assert torch.linalg.norm(residual) <= 1.02 * best + 1e-6
    exact = np.linalg.svd(w.double().numpy(), compute_uv=False)[: rank // 2 + 1]
    np.testing.assert_allclose(torch.linalg.norm(l2, dim=0)[: exact.size], exact, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_rank_residual_makes_good_the_rounding(run, dtype):
    w = decaying(33, 70).to(dtype)
    got = run("low_rank", w, None, 6, 42)
    assert got["l1"].dtype == got["l2"].dtype == dtype
    rebuilt = got["l2"].double() @ got["l1"].double() + got["residual"].double()
    torch.testing.assert_close(rebuilt, w.double(), rtol=0, atol=1e-7)


def test_exact_rank_seeds_and_limits(run):
    rng = np.random.default_rng(1)
    w = torch.from_numpy((rng.standard_normal((50, 4)) @ rng.standard_normal((4, 31))).astype(np.float32))
    assert run("low_rank", w, None, 4, 42)["residual"].abs().max() < 1e-5
    again, other = run("low_rank", decaying(40, 60), None, 5, 42), run("low_rank", decaying(40, 60), None, 5, 43)
    assert torch.equal(again["l1"], run("low_rank", decaying(40, 60), None, 5, 42)["l1"])
    assert not torch.equal(again["l1"], other["l1"])
    assert torch.isfinite(run("low_rank", torch.zeros(5, 7), None, 2, 42)["l2"]).all()
    for rank in (0, 32):
        with pytest.raises(ValueError, match=rf"rank must be in \[1, 31\] for f32\[50,31\].*got {rank}"):
            run("low_rank", w, None, rank, 42)


def sylvester(n):
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.kron([[1, 1], [1, -1]], h)
    return h


@pytest.mark.parametrize("signs", [0, 1])
@pytest.mark.parametrize(("columns", "block"), [(1, 1), (6, 2), (12, 4), (24, 8), (48, 16), (96, -1), (256, 256), (640, 128)])
def test_rotation(run, columns, block, signs):
    w, x = layer(5, columns, seed=3), inputs(37, columns)
    got = run("hadamard", w, x, block, signs)
    size = block if block > 0 else columns & -columns
    s = got["signs"].double().numpy()
    assert set(s) <= {-1.0, 1.0} and (signs or (s == 1).all())
    r = np.kron(np.eye(columns // size), sylvester(size)) * s[:, None] / np.sqrt(size)
    for name, a in (("weight", w), ("x", x)):
        a = a.double().numpy()
        bound = (np.log2(size) + 4) * 2.0**-24 * np.abs(a) @ np.abs(r)  # one rounding per pass, and the scale's
        assert (np.abs(got[name].double().numpy() - a @ r) <= bound + 1e-30).all()
    y = got["x"].double().numpy() @ got["weight"].double().numpy().T
    np.testing.assert_allclose(y, x.double().numpy() @ w.double().numpy().T, rtol=1e-4, atol=1e-4)


def test_signs_are_those_of_the_file_format(run):
    """The low bits of mt19937, as numpy's legacy generator gives them."""
    got = run("hadamard", torch.zeros(1, 128), torch.zeros(1, 128), 128, 1)["signs"].numpy()
    bits = np.random.RandomState(7).randint(0, 2**32, 128, dtype=np.uint32) & 1
    np.testing.assert_array_equal(got, np.where(bits, 1, -1))


@pytest.mark.parametrize("block", [3, 0, -2, 64])
def test_rotation_limits(run, block):
    with pytest.raises(ValueError, match=rf"block must be -1 or a power of two that divides the 96 columns.*got {block}"):
        run("hadamard", layer(2, 96), inputs(2, 96), block, 0)
