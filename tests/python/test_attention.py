"""Attention calls of the package beside torch's, in every layout and type; and sparse calls beside dense ones under their masks."""
import inspect

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


def test_the_signature_is_that_of_mindie_sd():
    wanted = ("(q, k, v, attn_mask=None, scale=None, is_causal=False, head_num=1, input_layout='BNSD', inner_precise=0, sparse_type=None, "
              "txt_len=0, block_size=128, latent_shape_q=None, latent_shape_k=None, keep_sink=True, keep_recent=True, cdf_threshold=1.0, "
              "sparsity=0.0, **kwargs)")
    signature = inspect.signature(aerogel.sparse_attention)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=signature.empty)) == wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [32, 72, 256])
@pytest.mark.parametrize("options", [
    {"sparse_type": "rf_v1"}, {"sparse_type": "rf_v2"}, {"sparse_type": "rf_v3", "precision": "fp8"}, {"sparse_type": "rf_v3", "precision": "mix"},
    {"sparse_type": "ada_bsa"}, {"sparse_type": "rf_v1", "precision": "int8"}, {"sparse_type": "rf_v2", "precision": "int8"},
    {"sparse_type": "ada_bsa", "precision": "int8"},
])
def test_every_type_and_head_size(options, head_dim, dtype):
    q = torch.randn(1, 4, 9 * 64, head_dim).to(dtype)
    k, v = (torch.randn(1, 2, 9 * 64, head_dim).to(dtype) for _ in range(2))
    options = {"latent_shape_q": (9, 8, 8), "block_size": 16, "sparsity": 0.5, **options}
    o, mask = aerogel.sparse_attention(q, k, v, return_mask=True, **options)
    assert o.dtype == dtype and o.shape == q.shape and mask.dtype == torch.int8 and mask.shape == (1, 4, 36, 36)
    wide, wide_mask = aerogel.sparse_attention(q.float(), k.float(), v.float(), return_mask=True, **options)
    assert torch.equal(mask, wide_mask)
    # Weights, values and outputs are rounded to the type; outputs are averages of values of about 1.
    error = float((o.float() - wide).norm() / wide.norm())
    assert error < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 2e-2}[dtype]


def refused(cases):
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_bad_arrays_are_refused():
    q, k, v = inputs(batch=1, q_len=128, k_len=128)
    refused([
        (lambda: aerogel.attention(q, k, v.double()), ValueError, "one dtype"),
        (lambda: aerogel.attention(q, k, v.numpy()), ValueError, "of one kind"),
        (lambda: aerogel.attention(q, k[:, :2], v), ValueError, r"\[attention\] k must have the batch.*or a divisor"),
        (lambda: aerogel.attention(q[0], k[0], v[0]), ValueError, r"\[attention\]"),
        (lambda: aerogel.attention(q, k, v, input_layout="TND"), ValueError, r"TND is \[tokens, heads, head_dim\], got \[1, 3, 128, 40\]"),
        (lambda: aerogel.attention(q, k, v, input_layout="SBH"), NotImplementedError, "BNSD, BSND or TND"),
        (lambda: aerogel.attention(q, k, v, scale=-1), ValueError, "positive"),
        (lambda: aerogel.attention(q, k, v, mask=torch.ones(1, 3, 2, 2, dtype=torch.bool)), ValueError, r"\[1,3,1,1\]"),
        (lambda: aerogel.attention(q.to("meta"), k.to("meta"), v.to("meta")), NotImplementedError, "must be on the CPU or on an NVIDIA GPU"),
        (lambda: aerogel.attention(q.long(), k.long(), v.long()), ValueError, "float32, bfloat16 or float16"),
    ])


def sparse(**changes):
    """A call that fits, changed."""
    x = torch.ones(1, 3, 9 * 64, 40)
    fitting = dict(q=x, k=x, v=x, sparse_type="rf_v2", latent_shape_q=(9, 8, 8), sparsity=0.5, block_size=16)
    return lambda: aerogel.sparse_attention(**{**fitting, **changes})


def test_bad_options_are_refused():
    sparse()()
    refused([
        (sparse(v=torch.ones(1, 3, 500, 40)), ValueError, "v must have the shape of k"),
        (sparse(sparsity=1.0), ValueError, "sparsity must be at least 0 and less than 1, got 1.0"),
        (sparse(sparsity=-0.1), ValueError, "sparsity must be at least 0"),
        (sparse(sparsity=float("nan")), ValueError, "sparsity must be at least 0"),
        (sparse(latent_shape_q=(3, 8, 8)), ValueError, r"0 \+ \[3,8,8\], got 576 .*tokens, not pixels"),
        (sparse(latent_shape_q=(9, 8)), ValueError, r"latent_shape_q must be \(frames, height, width\)"),
        (sparse(latent_shape_q=None), ValueError, "latent_shape_q must be"),
        (sparse(txt_len=5), ValueError, r"5 \+ \[9,8,8\], got 576"),
        (sparse(sparse_type="rf_v9"), ValueError, "rf_v1, rf_v2, rf_v3, ada_bsa, got 'rf_v9'"),
        (sparse(sparse_type="rf_v1", latent_shape_k=(8, 9, 8)), ValueError, "one latent shape"),
        (sparse(is_causal=True), ValueError, "is_causal goes with none and ada_bsa"),
        (sparse(sparsty=0.5), TypeError, "sparsty"),
        (sparse(precision=None), ValueError, "precision must be a word, got None"),
        (sparse(precision="fp4"), ValueError, 'none, fp8, mix, int8, int8_qk, mxfp4, got "fp4"'),
        (sparse(precision="fp8"), ValueError, "go with rf_v3, got rf_v2"),
        (sparse(sparse_type="ada_bsa", precision="int8", is_causal=True), ValueError, "is_causal goes with precision none"),
        (sparse(block_size_kv=32), ValueError, "rf_v3 may have two"),
        (sparse(block_size=8), ValueError, "block_size must be 16 to 128, got 8"),
        (sparse(sparse_type="ada_bsa", block_size=20), ValueError, "multiple of 8, got 20"),
        (sparse(sparse_type="ada_bsa", cdf_threshold=0), ValueError, "cdf_threshold"),
        (sparse(sparse_type="rf_v3", q_rot=torch.eye(40), k_rot=torch.eye(40)), ValueError, "go with precision fp8"),
        (sparse(sparse_type="rf_v3", precision="fp8", q_rot=torch.eye(32), k_rot=torch.eye(32)), ValueError, r"q_rotation must be .*\[40,40\]"),
        (sparse(k=torch.ones(1, 2, 576, 40), v=torch.ones(1, 2, 576, 40)), ValueError, "its heads or a divisor of them"),
    ])


def test_bad_masks_and_videos_are_refused():
    ones = torch.ones(1, 3, 36, 36, dtype=torch.int8)
    first, second = {"start": 0, "latent_shape": (4, 8, 8)}, {"start": 256, "latent_grid": (5, 8, 8)}
    sparse(latent_shape_q=None, video_spans=[first, second])()
    refused([
        (sparse(attn_mask=ones), ValueError, "attn_mask or mask stand alone"),
        (sparse(cached_mask=ones, sparse_type=None), ValueError, "attn_mask or mask stand alone"),
        (sparse(cached_mask=ones, sparse_type="rf_v1"), ValueError, "rf_v1 makes its own mask"),
        (sparse(cached_mask=ones[..., :35]), ValueError, r"mask must be .*\[1,3,36,36\].*got i8\[1,3,36,35\]"),
        (sparse(cached_mask=ones[:, :2]), ValueError, r"got i8\[1,2,36,36\]"),
        (sparse(cached_mask=ones.float()), ValueError, "cached_mask of torch.float32 is added to the scores and may hold 0 .* and -inf"),
        (sparse(cached_mask=ones.int()), ValueError, r"bool or int8 .*got int32 \[1, 3, 36, 36\]"),
        (sparse(sparse_type=None, mask=ones, attn_mask=ones), ValueError, "both masks"),
        (sparse(sparse_type=None, mask=torch.ones(576, 576, dtype=torch.bool)), ValueError, r"\[1,3,36,36\]"),
        (sparse(video_spans=[{"start": 0, "latent_shape": (9, 8, 8)}]), ValueError, "give one of them"),
        (sparse(latent_shape_q=None, video_spans=[{"start": 1, "latent_shape": (9, 8, 8)}]), ValueError, "inside of the 576 tokens, got start 1"),
        (sparse(latent_shape_q=None, video_spans=[{"start": 0, "latent_shape": (4, 8, 8)}, {"start": 255, "latent_grid": (1, 8, 8)}]), ValueError,
         "without overlap"),
        (sparse(latent_shape_q=None, video_spans=[{"start": 0, "grid": (9, 8, 8)}]), ValueError, "video_spans must be a list"),
        (sparse(latent_shape_q=None, video_spans=[]), ValueError, "at least one video"),
        (sparse(latent_shape_q=None, sparse_type="rf_v1",
                video_spans=[{"start": 0, "latent_shape": (4, 8, 8)}, {"start": 256, "latent_shape": (1, 8, 8)}]), ValueError, "rf_v1 knows one video"),
    ])


def test_bad_numbers_are_refused_where_a_mask_is_predicted():
    x = torch.randn(1, 3, 9 * 64, 40)
    broken, infinite = x.clone(), x.clone()
    broken[0, 2, 77, 3] = torch.nan
    infinite[0, 1, 570, 39] = -torch.inf
    refused([
        (sparse(q=broken), ValueError, "q is nan at batch 0, head 2, token 77.*no mask can be predicted"),
        (sparse(q=broken, sparse_type="rf_v3", precision="fp8"), ValueError, "q is nan at batch 0, head 2, token 77"),
        (sparse(k=infinite, sparse_type="ada_bsa"), ValueError, "k is -inf at batch 0, head 1, token 570"),
        (sparse(q=torch.full_like(x, torch.nan), sparse_type="rf_v1"), ValueError, "q is nan at batch 0, head 0, token 0"),
        (sparse(q=torch.full_like(x, 3e38)), ValueError, "overflow"),
    ])
    mask = torch.ones(1, 1, 36, 36, dtype=torch.bool)
    o = sparse(q=broken, cached_mask=mask)()
    assert torch.isnan(o[0, 2, 77]).all() and o.isnan().sum() == 40
