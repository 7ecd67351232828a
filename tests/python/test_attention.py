"""Attention calls of the package beside torch's, in every layout and type; and sparse calls beside dense ones under their masks."""
import aerogel
import numpy as np
import pytest
import torch


def inputs(*, heads=3, q_len=70, k_len=91, dim=40, dtype=torch.float32, batch=2):
    return [torch.randn(batch, heads, n, dim).to(dtype) for n in (q_len, k_len, k_len)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["BNSD", "BSND"])
def test_dense_equals_torch(dtype, layout):
    q, k, v = inputs(dtype=dtype)
    wanted = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double())
    if layout == "BSND":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    o = aerogel.attention(q, k, v, input_layout=layout)
    assert o.dtype == dtype and o.shape == q.shape
    o = o if layout == "BNSD" else o.transpose(1, 2)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(o.double(), wanted, rtol=tolerance, atol=tolerance)


def test_numpy_arrays_give_the_same_bits_without_copies_of_torch():
    q, k, v = inputs()
    o = aerogel.attention(*(t.numpy() for t in (q, k, v)))
    assert isinstance(o, np.ndarray) and np.array_equal(o, aerogel.attention(q, k, v).numpy())


def test_a_block_mask_hides_blocks():
    q, k, v = inputs(q_len=64, k_len=96)
    mask = torch.rand(2, 3, 4, 3) < 0.5
    mask[..., 0] = True
    o = aerogel.attention(q, k, v, mask=mask, block_size=(16, 32), scale=0.3)
    hidden = mask.repeat_interleave(16, 2).repeat_interleave(32, 3)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden, scale=0.3)
    torch.testing.assert_close(o, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", ["rf_v1", "rf_v2"])
@pytest.mark.parametrize("layout", ["BNSD", "BSND"])
def test_sparse_attention(pattern, layout):
    frames, height, width, text = 5, 8, 16, 11
    q, k, v = inputs(batch=1, q_len=text + frames * height * width, k_len=text + frames * height * width)
    if layout == "BSND":
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    options = dict(sparse_type=pattern, input_layout=layout, latent_shape_q=(frames, height, width), txt_len=text, block_size=16)
    dense = aerogel.attention(q, k, v, input_layout=layout)
    exact = aerogel.sparse_attention(q, k, v, sparsity=0.0, **options)
    torch.testing.assert_close(exact, dense, rtol=1e-4, atol=1e-5)
    o, report = aerogel.sparse_attention(q, k, v, sparsity=0.6, return_report=True, **options)
    assert 0.3 < report["density"] < 0.8 and len(report["heads"]) == 3 and not report["dense_because"]
    assert 0.01 < float((o - dense).norm() / dense.norm()) < 1
    assert torch.equal(o, aerogel.sparse_attention(q, k, v, sparsity=0.6, **options))


def test_none_is_dense():
    q, k, v = inputs()
    o, report = aerogel.sparse_attention(q, k, v, sparse_type=None, return_report=True)
    assert torch.equal(o, aerogel.attention(q, k, v)) and report["density"] == 1


def test_bad_input_is_refused():
    q, k, v = inputs(batch=1, q_len=128, k_len=128)
    sparse = dict(sparse_type="rf_v2", latent_shape_q=(2, 8, 8), sparsity=0.5)
    cases = [
        (lambda: aerogel.attention(q, k, v.double()), ValueError, "one dtype"),
        (lambda: aerogel.attention(q, k, v.numpy()), ValueError, "of one kind"),
        (lambda: aerogel.attention(q, k[:, :2], v), ValueError, r"\[attention\]"),
        (lambda: aerogel.attention(q[0], k[0], v[0]), ValueError, r"\[attention\]"),
        (lambda: aerogel.attention(q, k, v, input_layout="TND"), NotImplementedError, "BNSD or BSND"),
        (lambda: aerogel.attention(q, k, v, scale=-1), ValueError, "positive"),
        (lambda: aerogel.attention(q, k, v, mask=torch.ones(1, 3, 2, 2, dtype=torch.bool)), ValueError, r"\[1,3,1,1\]"),
        (lambda: aerogel.attention(q.to("meta"), k.to("meta"), v.to("meta")), NotImplementedError, "must be on the CPU"),
        (lambda: aerogel.attention(q.long(), k.long(), v.long()), ValueError, "float32, bfloat16 or float16"),
        (lambda: aerogel.sparse_attention(q, k, v, **{**sparse, "sparsity": 1.0}), ValueError, "sparsity"),
        (lambda: aerogel.sparse_attention(q, k, v, **{**sparse, "latent_shape_q": (3, 8, 8)}), ValueError, "latent"),
        (lambda: aerogel.sparse_attention(q, k, v, **{**sparse, "latent_shape_q": None}), ValueError, "latent_shape_q must be"),
        (lambda: aerogel.sparse_attention(q, k, v, **{**sparse, "sparse_type": "rf_v9"}), ValueError, "rf_v9"),
        (lambda: aerogel.sparse_attention(q, k, v, **{**sparse, "sparse_type": "ada_bsa"}), NotImplementedError, "not there yet"),
        (lambda: aerogel.sparse_attention(q, k, v, is_causal=True, **sparse), NotImplementedError, "is_causal"),
        (lambda: aerogel.sparse_attention(q, k, v, sparsty=0.5), TypeError, "sparsty"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
