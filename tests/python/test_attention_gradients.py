"""Gradients through the functions of attention, and masks of numbers: what torch's scaled_dot_product_attention does, or an error."""
import aerogel
import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

BLOCKS = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool).expand(2, 4, 2, 3)  # of 32 tokens: 50 queries, 70 keys
TOKENS = BLOCKS.repeat_interleave(32, 2).repeat_interleave(32, 3)[:, :, :50, :70]
ADDITIVE = torch.zeros(BLOCKS.shape).masked_fill(~BLOCKS, -torch.inf)


def problem(k_heads=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, heads, tokens, 32, generator=generator) for heads, tokens in ((4, 50), (k_heads, 70), (k_heads, 70))]


def gradients(function, tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    o = function(*leaves)
    (o * torch.randn(o.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return [o.detach(), *(t.grad for t in leaves)]


def causal(q, k, v):
    seen = torch.ones(50, 70, dtype=torch.bool).tril(20)
    return scaled_dot_product_attention(q, k, v, seen)


def packed(function):
    return lambda q, k, v: function(*(t[0].transpose(0, 1) for t in (q, k, v))).transpose(0, 1)[None]


@pytest.mark.parametrize("ours, torchs, k_heads", [
    (aerogel.attention, scaled_dot_product_attention, 4),
    (lambda *a: aerogel.attention(*a, scale=0.3), lambda *a: scaled_dot_product_attention(*a, scale=0.3), 4),
    (aerogel.attention, lambda *a: scaled_dot_product_attention(*a, enable_gqa=True), 2),
    (lambda *a: aerogel.attention(*a, is_causal=True), causal, 4),
    (lambda *a: aerogel.attention(*a, mask=BLOCKS, block_size=32), lambda *a: scaled_dot_product_attention(*a, TOKENS), 4),
    (lambda q, k, v: aerogel.attention(q.mT.contiguous().mT.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), input_layout="BSND").transpose(1, 2),
     scaled_dot_product_attention, 4),
    (packed(lambda *a: aerogel.attention(*a, input_layout="TND")), lambda q, k, v: scaled_dot_product_attention(q[:1], k[:1], v[:1]), 4)])
def test_attention_has_the_gradients_of_torch(ours, torchs, k_heads):
    for mine, exact in zip(gradients(ours, problem(k_heads)), gradients(torchs, problem(k_heads))):
        torch.testing.assert_close(mine, exact, rtol=1e-4, atol=1e-5)


def test_transforms_of_torch():
    q, k, v = problem()
    found = torch.func.grad(lambda q: aerogel.attention(q, k, v).square().sum())(q)
    torch.testing.assert_close(found, torch.func.grad(lambda q: scaled_dot_product_attention(q, k, v).square().sum())(q), rtol=1e-4, atol=1e-5)


def test_quantized_attention_passes_gradients_straight_through():
    o, *found = gradients(lambda *a: aerogel.quantized_attention(*a, "int8"), problem())
    assert torch.equal(o, aerogel.quantized_attention(*problem(), "int8"))
    for mine, exact in zip(found, gradients(scaled_dot_product_attention, problem())[1:]):
        torch.testing.assert_close(mine, exact)


def test_what_has_no_gradients_says_so():
    q, k, v = (t.requires_grad_() for t in problem())
    tokens = [t[0].transpose(0, 1) for t in (q, q, q)]
    for call in (lambda: aerogel.sparse_attention(q, k, v), lambda: aerogel.quantized_attention(*tokens, seq_len=[20, 30])):
        with pytest.raises(NotImplementedError, match="gradients do not flow through"):
            call()
        with torch.no_grad():
            assert not call().requires_grad
    with torch.no_grad():
        assert not aerogel.attention(q, k, v).requires_grad


@pytest.mark.parametrize("function, name", [
    (lambda mask: aerogel.attention(*problem(), mask=mask, block_size=32), "mask"),
    (lambda mask: aerogel.quantized_attention(*problem(), "fp8", mask=mask, block_size=32), "mask"),
    (lambda mask: aerogel.sparse_attention(*problem(), mask, block_size=32), "attn_mask"),
    (lambda mask: aerogel.sparse_attention(*problem(), block_size=32, mask=mask), "mask")])
def test_masks_of_zero_and_minus_infinity_mean_what_they_mean_to_torch(function, name):
    exact = function(BLOCKS)
    least = torch.where(BLOCKS, 0.0, torch.finfo(torch.float32).min)
    for mask in (BLOCKS.to(torch.int8), ADDITIVE, ADDITIVE.double(), ADDITIVE.bfloat16(), least, ADDITIVE.numpy()):
        assert torch.equal(function(mask), exact)
    for mask in (BLOCKS.float(), ADDITIVE.nan_to_num(neginf=-1e4), np.where(BLOCKS.numpy(), 0.0, np.nan)):
        with pytest.raises(ValueError, match=rf"\] {name} of .*float.* may hold 0 \(seen\) and -inf"):
            function(mask)


def test_a_mask_that_changes_before_backward_changes_nothing():
    q, k, v = (torch.randn(1, 2, 64, 32, requires_grad=True) for _ in range(3))
    mask = torch.ones(1, 2, 4, 4, dtype=torch.bool).tril()
    wanted = torch.autograd.grad(aerogel.attention(q, k, v, mask=mask, block_size=16).sum(), v)[0]
    o = aerogel.attention(q, k, v, mask=mask, block_size=16)
    mask.fill_(True)
    assert torch.equal(torch.autograd.grad(o.sum(), v)[0], wanted)


@pytest.mark.parametrize("call", [aerogel.attention, lambda *a, **k: aerogel.quantized_attention(*a, "int8", **k)])
def test_one_mask_for_all_heads(call):
    q, k, v = (torch.randn(2, 3, 64, 32) for _ in range(3))
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    wanted = call(q, k, v, mask=mask.expand(2, 3, 4, 4).contiguous(), block_size=16)
    for small in (mask, mask[None, None], mask.expand(1, 3, 4, 4), mask.expand(2, 1, 4, 4).numpy()):
        small = torch.as_tensor(small)
        assert torch.equal(call(q, k, v, mask=small, block_size=16), wanted)
    for wrong in ((16,), (16, 16, 1), 16.5, "a", (16, 0)):
        with pytest.raises(ValueError, match="block_size must be a number of tokens or a pair"):
            call(q, k, v, mask=mask, block_size=wrong)
