"""rf_v3 in low precision: what q, k and v are rounded to, written down once more in NumPy; then exact attention under the same mask."""

import ml_dtypes
import numpy as np
import pattern_reference as reference
import pytest
import python_calls as calls
import rainfusion_reference

aerogel = pytest.importorskip("aerogel")

LATENT, TXT_LEN, BLOCK = (9, 9, 8), 21, 16


def hadamard(order):
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix / np.float32(order**0.5)).astype(np.float32)


def rounded(x, largest_code, codes):
    """x in units of max|x| / largest_code, rounded by `codes`; float32 throughout."""
    scale = np.abs(x).max() / np.float32(largest_code)
    return codes((x / scale).astype(np.float32)).astype(np.float32) * np.float32(scale)


def to_e4m3(x):
    return x.astype(ml_dtypes.float8_e4m3fn)


def in_blocks(x, tokens, largest_code, codes):
    return np.concatenate([rounded(x[i : i + tokens], largest_code, codes) for i in range(0, len(x), tokens)])


def fp8(q, k, v, rotation):
    rotated = [(x.astype(np.float64) @ rotation.astype(np.float64)).astype(np.float32) for x in (q, k)]
    return [in_blocks(x, tokens, 448, to_e4m3) for x, tokens in zip((*rotated, v), (128, 256, 256))]


def mxfp4(q, k, v, rotation, exponent=lambda largest: np.floor(np.log2(largest)) - 2):
    def block(x):
        power = np.float32(2.0) ** np.float32(exponent(np.abs(x).max()))
        return np.clip(x / power, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * power

    def along_channels(x):
        return np.stack([np.concatenate([block(row[i : i + 32]) for i in range(0, len(row), 32)]) for row in x])

    rotated = [(x.astype(np.float64) @ rotation.astype(np.float64)).astype(np.float32) for x in (q, k)]
    return [*(along_channels(x) for x in rotated), along_channels(v.T).T]


def mxfp4_by_range(q, k, v, rotation):
    return mxfp4(q, k, v, rotation, lambda largest: np.ceil(np.log2(np.float32(largest) / np.float32(7.25))))


def mix(q, k, v, _):
    channels = [rounded(v[:, c], 448, to_e4m3) for c in range(v.shape[1])]
    return [*(in_blocks(x, 64, 127, np.rint) for x in (q, k)), np.stack(channels, axis=1)]


def sparse_arrays(head_dim, layout="BNSD"):
    side = reference.one_video(LATENT, TXT_LEN, BLOCK)
    return side, calls.make(np.random.default_rng(head_dim), q_len=side.tokens, heads=(1, 4), kv_heads=2, head_dim=head_dim, layout=layout)


OPTIONS = {"sparse_type": "rf_v3", "latent_shape_q": LATENT, "txt_len": TXT_LEN, "block_size": BLOCK, "sparsity": 0.7}


@pytest.mark.parametrize("precision, quantize", [("fp8", fp8), ("mix", mix), ("mxfp4", mxfp4), ("mxfp4", mxfp4_by_range)])
@pytest.mark.parametrize("head_dim, order", [(64, 64), (256, 256), (48, 16)])
@pytest.mark.parametrize("layout", ["BNSD", "TND"])
def test_rounding(precision, quantize, head_dim, order, layout):
    """Orders whose root is a power of two, so that the rotation is exact and every rounding is the same bit for bit."""
    side, arrays = sparse_arrays(head_dim, layout)
    rotation = np.kron(np.eye(head_dim // order, dtype=np.float32), hadamard(order))
    scale = {"mxfp4_dst_type_max": 7.25} if quantize is mxfp4_by_range else {}
    o, mask, _ = arrays.call(precision=precision, **OPTIONS, **scale)
    _, plain_mask, _ = arrays.call(**OPTIONS)
    np.testing.assert_array_equal(mask, plain_mask)
    order_of = side.order()
    for index, q, k, v in arrays.heads():
        pairs = reference.pairs_of_cells(side, side, mask[index])[np.ix_(order_of, order_of)]
        inside = quantize(q[order_of], k[order_of], v[order_of], rotation)
        out, bound = rainfusion_reference.attention(*inside, float(arrays.scale), pairs)
        error = np.abs(o[index][order_of] - out).max(axis=1)
        assert (error <= bound).all(), f"{error.max()} > {bound[error.argmax()]}"


@pytest.mark.parametrize("sparse_type, head_dim, layout", [("rf_v2", 64, "BNSD"), ("rf_v3", 40, "BSND"), ("ada_bsa", 64, "BNSD"), (None, 72, "BNSD")])
def test_int8_is_quantized_attention_of_the_kept_blocks(sparse_type, head_dim, layout):
    side = reference.one_video(LATENT, 0, BLOCK)
    arrays = calls.make(np.random.default_rng(head_dim), q_len=side.tokens, heads=(1, 4), kv_heads=2, head_dim=head_dim, layout=layout)
    options = {"sparse_type": sparse_type, "block_size": BLOCK, "sparsity": 0.7}
    if sparse_type in ("rf_v2", "rf_v3"):
        options["latent_shape_q"] = LATENT
    if sparse_type is None:
        cells = -(-side.tokens // BLOCK)
        options = {"block_size": BLOCK, "mask": np.random.default_rng(1).random((1, 4, cells, cells)) < 0.3}
    o, mask, report = arrays.call(precision="int8", **options)
    plain, plain_mask, _ = arrays.call(**options)
    np.testing.assert_array_equal(mask, plain_mask)
    assert 0.1 < report["density"] < 0.6
    order = side.order() if "latent_shape_q" in options else np.arange(side.tokens)
    inside = (np.ascontiguousarray(x[:, :, order]) for x in (arrays.q, arrays.k, arrays.v))
    wanted = aerogel.quantized_attention(*inside, mask=np.ascontiguousarray(mask), block_size=BLOCK)
    np.testing.assert_array_equal(o[:, :, order], wanted)
    assert 0 < np.linalg.norm(o - plain) < 0.05 * np.linalg.norm(plain)


def test_none_and_its_other_word_are_float_attention():
    _, arrays = sparse_arrays(64)
    plain, _, _ = arrays.call(**OPTIONS)
    for precision in ("none", "bf16"):
        np.testing.assert_array_equal(arrays.call(precision=precision, **OPTIONS)[0], plain)


@pytest.mark.parametrize("precision, largest", [("fp8", 0.06), ("mix", 0.04)])
def test_error_and_gain_of_the_rotation(precision, largest):
    """Outliers in a few channels: rotated fp8 stays close, and closer than unrotated fp8."""
    side, arrays = sparse_arrays(96)
    rng = np.random.default_rng(1)
    arrays.q, arrays.k, arrays.v = (rng.standard_normal(x.shape).astype(np.float32) for x in (arrays.q, arrays.k, arrays.v))
    exact, _, _ = arrays.call(**OPTIONS)
    o, _, _ = arrays.call(precision=precision, **OPTIONS)
    assert 0 < np.linalg.norm(o - exact) < largest * np.linalg.norm(exact)
    if precision == "fp8":
        given, _, _ = arrays.call(precision="fp8", q_rot=hadamard(128)[:96, :96], k_rot=hadamard(128)[:96, :96], **OPTIONS)
        assert np.linalg.norm(given - exact) > 2 * np.linalg.norm(o - exact), "a cut Hadamard matrix is not orthogonal and changes the scores"
