"""Attention with masks that only hide keys goes to Aerogel, over the keys that are seen; every other mask stays with torch. Against torch's attention
with the mask."""
import pytest
import torch
from aerogel.attention import layers
from aerogel.attention.layers import Problem, attend_part, by_torch, dense, part_by_torch, why_float
from aerogel.attention.padding import seen_keys

pytestmark = pytest.mark.usefixtures("one_thread")

B, H, S, K, D = 2, 2, 33, 41, 16
LENGTHS = torch.arange(K) < torch.tensor([[29], [41]])  # [batch, keys]
HOLES = torch.rand(B, K, generator=torch.Generator().manual_seed(3)) < 0.6
NO_KEY = torch.stack([torch.zeros(K, dtype=torch.bool), torch.ones(K, dtype=torch.bool)])


def added(seen, value):
    return torch.zeros(seen.shape).masked_fill(~seen, value)


def whole(mask):
    """[batch, 1, queries, keys] with equal rows."""
    return mask[:, None, None].expand(-1, -1, S, -1).contiguous()


def rows(seen):
    return seen[:, None, None]


PADDING = {
    "lengths": rows(LENGTHS), "one length": rows(LENGTHS[:1]), "holes": rows(HOLES), "whole": whole(HOLES), "of all heads": whole(HOLES).expand(-1, H, -1, -1),
    "nothing": rows(torch.ones(B, K, dtype=torch.bool)), "an item without keys": rows(NO_KEY), "minus infinity": rows(added(LENGTHS, -torch.inf)),
    "the least number": rows(added(HOLES, torch.finfo(torch.float32).min)), "-10000": rows(added(HOLES, -10000.0)), "zeros": torch.zeros(B, 1, 1, K),
    "without keys, -inf": rows(added(NO_KEY, -torch.inf)), "three axes": whole(HOLES[:1])[0], "queries and keys": whole(HOLES[:1])[0, 0],
}
OTHERS = {
    "causal": torch.ones(S, K, dtype=torch.bool).tril(), "a bias": torch.randn(1, 1, 1, K), "-5": rows(added(HOLES, -5.0)),
    "one row differs": whole(HOLES) ^ (torch.arange(S)[:, None] == 7), "heads differ": torch.stack([LENGTHS, HOLES], 1)[:, :, None],
    "without keys, finite": rows(added(NO_KEY, -1e30)), "NaN": rows(added(HOLES, torch.nan)), "plus": rows(added(HOLES, 10000.0)),
}


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(B, n, H, D, generator=generator) for n in (S, K, K))

    def make(mask, layout="BSND"):
        return Problem(*(t if layout == "BSND" else t.transpose(1, 2) for t in (q, k, v)), layout, mask, scale=0.5)
    return make


@pytest.fixture
def no_torch(monkeypatch):
    def refused(*_):
        raise AssertionError("torch was called")
    monkeypatch.setattr(layers, "by_torch", refused)


@pytest.mark.parametrize("name", PADDING)
@pytest.mark.parametrize("layout", ["BSND", "BNSD"])
def test_padding_is_left_out(problem, no_torch, name, layout):
    p = problem(PADDING[name], layout)
    wanted = by_torch(p).nan_to_num(0.0)
    torch.testing.assert_close(dense(p), wanted, rtol=1e-5, atol=1e-6)
    assert why_float(p) == "" and float((dense(p, "int8") - wanted).norm() / wanted.norm()) < 0.02


def test_a_mask_of_a_batch_is_what_diffusers_means(problem, no_torch):
    torch.testing.assert_close(dense(problem(HOLES)), by_torch(problem(HOLES)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_other_masks_stay_with_torch(problem, name):
    p = problem(OTHERS[name])
    assert seen_keys(p) is None and why_float(p) == "an attention mask is given"
    torch.testing.assert_close(dense(p), by_torch(p), equal_nan=True)


def test_what_is_added_must_outweigh_the_scores(problem):
    p = problem(rows(added(HOLES, -10000.0)))
    assert seen_keys(p) is not None
    p.q = p.q * 1000
    assert seen_keys(p) is None


def test_keys_that_are_hidden_may_hold_anything(problem, no_torch):
    p = problem(rows(HOLES))
    wanted = dense(p)
    p.k, p.v = (t.masked_fill(~HOLES[:, :, None, None], torch.nan) for t in (p.k, p.v))
    assert torch.equal(dense(p), wanted)


def test_parts_keep_nan(problem):
    p = problem(rows(NO_KEY))
    p.q[:, 3] = torch.nan
    o, lse = part_by_torch(p)
    assert not o[0].any() and bool((lse[0] == -torch.inf).all())  # sees no key
    assert bool(o[1, 3].isnan().all()) and bool(lse[1, :, 3].isnan().all()) and not o[1, 4:].isnan().any()


def test_parts_take_a_mask_of_queries_and_keys(problem):
    p = problem(whole(HOLES[:1])[0, 0])
    torch.testing.assert_close(part_by_torch(p)[0], by_torch(p), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, rows(LENGTHS), rows(added(NO_KEY, -torch.inf)), OTHERS["a bias"], HOLES])
@pytest.mark.parametrize("layout", ["BSND", "BNSD"])
def test_parts_of_the_keys_are_put_together(problem, mask, layout):
    """As ring attention does, with the log-sum-exp of each part."""
    if mask is HOLES and layout == "BNSD":
        mask = rows(mask)
    p = problem(mask, layout)
    parts = []
    for keys in (slice(0, 15), slice(15, K)):
        k, v = ((t[:, keys] if layout == "BSND" else t[:, :, keys]) for t in (p.k, p.v))
        parts.append(attend_part(Problem(p.q, k, v, layout, None if mask is None else mask[..., keys], scale=p.scale)))
    lse = torch.stack([lse for _, lse in parts])
    weights = lse.softmax(0).nan_to_num(0.0)[..., None]
    outputs = torch.stack([o if layout == "BNSD" else o.transpose(1, 2) for o, _ in parts])
    wanted, whole_lse = part_by_torch(p)
    o = (weights * outputs).sum(0)
    torch.testing.assert_close(o if layout == "BNSD" else o.transpose(1, 2), by_torch(p).nan_to_num(0.0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(lse.logsumexp(0), whole_lse, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wanted, by_torch(p).nan_to_num(0.0), rtol=1e-5, atol=1e-6)
