"""attention_forward, attention_forward_varlen and sparse_attention against attention written out in float64."""
import aerogel
import pytest
import torch
from mindiesd import attention_forward, attention_forward_varlen, sparse_attention
from mindiesd.utils import ParametersInvalid


def exact(q, k, v, mask=None, scale=None):
    """[..., tokens, head_dim]; mask [q_len, k_len], true = attend."""
    scores = q.double() @ k.double().transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, -1)
    return weights.nan_to_num(0.0) @ v.double()


def close(o, wanted, dtype=torch.float32):
    assert o.dtype == dtype
    torch.testing.assert_close(o.double(), wanted, atol=8 * torch.finfo(dtype).eps, rtol=1e-2 if dtype != torch.float32 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [None, 0.21])
def test_layouts(dtype, scale):
    q, k, v = (torch.randn(2, 3, n, 24).to(dtype) for n in (19, 33, 33))
    wanted = exact(q, k, v, scale=scale)
    close(attention_forward(q, k, v, scale=scale, head_first=True), wanted, dtype)
    close(attention_forward(q, k, v, None, scale, False, True), wanted, dtype)
    swapped = [t.transpose(1, 2) for t in (q, k, v)]
    close(attention_forward(*swapped, scale=scale).transpose(1, 2), wanted, dtype)
    for mode in (dict(opt_mode="manual", op_type="ascend_laser_attention", layout="BSH"), dict(opt_mode="static"), dict(opt_mode="runtime")):
        close(attention_forward(*swapped, scale=scale, **mode).transpose(1, 2), wanted, dtype)


@pytest.mark.parametrize("head_first", [True, False])
def test_masks(head_first):
    q, k, v = (torch.randn(2, 3, n, 8) for n in (9, 12, 12))
    mask = torch.rand(9, 12) > 0.4
    mask[:, 3] = True
    given = [t if head_first else t.transpose(1, 2) for t in (q, k, v)]
    for form in (mask, mask.int(), mask.expand(2, 3, 9, 12)):
        o = attention_forward(*given, attn_mask=form, head_first=head_first)
        close(o if head_first else o.transpose(1, 2), exact(q, k, v, mask))


def test_attention_forward_errors():
    q = torch.randn(1, 4, 2, 8)
    cases = [((q[0], q, q), {}), ((q, q, 3), {}), ((q, q, q), dict(scale=1)), ((q, q, q), dict(fused=0)), ((q, q, q), dict(opt_mode="fast")),
             ((q, q, q), dict(op_type="flash")), ((q, q, q), dict(attn_mask=torch.ones(4, 3))), ((q, q, q), dict(attn_mask=[1])),
             ((q, q[:, :, :, :4], q), {})]
    for arguments, keywords in cases:
        with pytest.raises(ParametersInvalid, match=r"^\[MIE06E000001\] Parameters invalid\. \[attention"):
            attention_forward(*arguments, **keywords)
    with pytest.raises(TypeError, match="unexpected keyword argument 'head_frist'"):
        attention_forward(q, q, q, head_frist=True)
    plain = attention_forward(q, q, q)
    assert torch.equal(attention_forward(q, q, q, window_size=(-1, -1), softcap=0.0, dropout_p=0.0, is_causal=False, alibi_slopes=None), plain)
    for asked in (dict(window_size=(3, 0)), dict(softcap=1.0), dict(dropout_p=0.1), dict(causal=True), dict(alibi_slopes=q)):
        with pytest.raises(ParametersInvalid, match=rf"{next(iter(asked))}=.* is not supported"):
            attention_forward(q, q, q, **asked)


def test_the_operator_named_in_the_environment_is_checked(monkeypatch):
    q = torch.randn(1, 4, 2, 8)
    monkeypatch.setenv("MINDIE_SD_FA_TYPE", "prompt_flash_attn")
    assert torch.equal(attention_forward(q, q, q, opt_mode="manual", op_type="anything"), attention_forward(q, q, q))
    monkeypatch.setenv("MINDIE_SD_FA_TYPE", "test")
    assert attention_forward(q, q, q).shape == q.shape
    with pytest.raises(ParametersInvalid, match="op_type must be one of .*, got 'test'"):
        attention_forward(q, q, q, opt_mode="manual")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_varlen(causal, as_tensor):
    q_ends, k_ends = [0, 5, 5, 12, 16], [0, 9, 10, 17, 19]  # the last sequence has more queries than keys
    q, k, v = (torch.randn(n, 3, 16) for n in (16, 19, 19))
    given = [torch.tensor(e, dtype=torch.int32) for e in (q_ends, k_ends)] if as_tensor else (q_ends, k_ends)
    o = attention_forward_varlen(q, k, v, *given, softmax_scale=0.4, causal=causal, window_size=(-1, -1), softcap=0.0, deterministic=False)
    assert o.shape == q.shape
    for a, b, c, d in zip(q_ends, q_ends[1:], k_ends, k_ends[1:]):
        mask = torch.tensor([[j <= i + (d - c) - (b - a) for j in range(d - c)] for i in range(b - a)], dtype=torch.bool).reshape(b - a, d - c)
        parts = (t.transpose(0, 1) for t in (q[a:b], k[c:d], v[c:d]))
        close(o[a:b].transpose(0, 1), exact(*parts, mask if causal else None, 0.4))


def test_varlen_errors():
    q = torch.randn(6, 2, 8)
    for bounds in ([0, 5], [1, 6], [0, 4, 3, 6], [6]):
        with pytest.raises(ParametersInvalid, match="must rise from 0 to the 6 tokens"):
            attention_forward_varlen(q, q, q, bounds, [0, 6])
    with pytest.raises(ParametersInvalid, match="one length"):
        attention_forward_varlen(q, q, q, [0, 3, 6], [0, 6])
    with pytest.raises(ParametersInvalid, match="dropout_p"):
        attention_forward_varlen(q, q, q, [0, 6], [0, 6], dropout_p=0.1)
    with pytest.raises(ParametersInvalid, match="Expected q to be 3D"):
        attention_forward_varlen(q[None], q, q, [0, 6], [0, 6])
    for refused in (dict(window_size=3), dict(softcap=1.0), dict(alibi_slopes=q), dict(block_table=q), dict(return_attn_probs=True),
                    dict(deterministic=True), dict(max_seqlen_q=3), dict(max_seqlen_k=3)):
        with pytest.raises(ParametersInvalid, match=f"Unsupported parameters in varlen attention: {next(iter(refused))}="):
            attention_forward_varlen(q, q, q, [0, 6], [0, 6], **refused)


def test_sparse_attention_is_aerogels():
    q, k, v = (torch.randn(1, 2, 4 * 8 * 16, 32) for _ in range(3))
    for sparse_type in ("rf_v1", "rf_v2"):
        arguments = dict(sparse_type=sparse_type, sparsity=0.6, latent_shape_q=[4, 8, 16], latent_shape_k=[4, 8, 16], block_size=16)
        ours, report = sparse_attention(q, k, v, head_num=2, inner_precise=0, return_report=True, **arguments)
        wanted = aerogel.sparse_attention(q, k, v, **{**arguments, "latent_shape_q": (4, 8, 16)})
        assert torch.equal(ours, wanted) and report["density"] < 0.95
    close(sparse_attention(q, k, v, None, 0.2, False, 2, "BNSD", 0), exact(q, k, v, scale=0.2))
    with pytest.raises(TypeError, match="sparcity"):
        sparse_attention(q, k, v, sparcity=0.5)
    with pytest.raises(ParametersInvalid, match="latent_shape"):
        sparse_attention(q, k, v, sparse_type="rf_v2", latent_shape_q=[4, 8, 15])


def test_masks_of_numbers_mean_what_they_mean_to_torch():
    """0 = attend and -inf = not, as torch adds them; not the other way round."""
    q, k, v = (torch.randn(1, 6, 2, 16) for _ in range(3))
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    additive = torch.zeros(6, 6).masked_fill(~seen, -torch.inf)
    for mask in (additive, additive.half(), seen.int()):
        assert torch.equal(attention_forward(q, k, v, attn_mask=mask), attention_forward(q, k, v, attn_mask=seen))
    for mask in (seen.float(), torch.where(seen, 0.0, -1e4)):
        with pytest.raises(ParametersInvalid, match=r"attn_mask of torch.float32 .* may hold 0 \(seen\) and -inf"):
            attention_forward(q, k, v, attn_mask=mask)


def test_gradients_flow():
    tensors = [torch.randn(1, 6, 2, 16) for _ in range(3)]

    def gradients(function):
        leaves = [t.clone().requires_grad_() for t in tensors]
        function(*leaves).square().sum().backward()
        return [t.grad for t in leaves]

    def exact(*qkv):
        return torch.nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in qkv))

    def varlen(q, k, v):
        return attention_forward_varlen(q[0], k[0], v[0], [0, 6], [0, 6])

    for function in (attention_forward, varlen):
        for mine, other in zip(gradients(function), gradients(exact)):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(NotImplementedError, match="gradients do not flow through sparse attention"):
        sparse_attention(*(t.requires_grad_() for t in tensors), input_layout="BSND")


def test_torch_computes_with_fewer_heads_of_keys_too():
    q, k, v = torch.randn(1, 5, 4, 8), torch.randn(1, 7, 2, 8), torch.randn(1, 7, 2, 8)
    wide = [t.repeat_interleave(2, 2) for t in (k, v)]
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2)
    wanted = attention_forward(q, *wide, attn_mask=mask)
    torch.testing.assert_close(attention_forward(q, k, v, attn_mask=mask), wanted)
    torch.testing.assert_close(attention_forward_varlen(q[0], k[0], v[0], [0, 5], [0, 7], causal=True), wanted[0])
