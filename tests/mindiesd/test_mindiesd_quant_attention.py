"""quant_attention and MXFP4 in sparse_attention against the documented formulas, written down once more in torch: what q, k and v are rounded
to, and which keys a query sees; then attention in float64."""
import math

import aerogel
import pytest
import torch
from mindiesd import quant_attention, sparse_attention
from mindiesd.layers.quant.block_quant import fa_block_quant_preprocess
from mindiesd.quantization import FP8FAMode
from mindiesd.utils import ParametersInvalid

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)


def e4m3(x):
    return x.float().clamp(-448, 448).to(torch.float8_e4m3fn).double()


def e2m1(x):
    """To nearest, ties to the even code, at most 6."""
    magnitude = x.abs().clamp(max=6)
    above = torch.searchsorted(E2M1, magnitude.contiguous()).clamp(max=7)
    below = (above - 1).clamp(min=0)
    low, high = magnitude - E2M1[below], E2M1[above] - magnitude
    code = torch.where((low < high) | ((low == high) & (below % 2 == 0)), below, above)
    return E2M1[code] * torch.where(x < 0, -1.0, 1.0)


def fp8_blocks(x, tokens, channels):
    """[tokens, head_dim] of one head."""
    out = torch.empty_like(x, dtype=torch.float64)
    for t in range(0, x.shape[0], tokens):
        for c in range(0, x.shape[1], channels):
            part = x[t : t + tokens, c : c + channels].float()
            scale = part.abs().max() / 448
            scale = scale if scale > 0 else torch.tensor(1.0)
            out[t : t + tokens, c : c + channels] = (e4m3(part / scale).float() * scale).double()
    return out


def exponent(largest, algorithm=0, dst_type_max=0.0, emax=2):
    """CANN's DynamicMxQuant, in its own words."""
    if largest == 0:
        return -127
    floor = math.frexp(largest)[1] - 1
    if algorithm == 0:
        return floor - emax
    if dst_type_max in (0, 6, 7):  # the first bit, or the first two, of the mantissa set, and a bit behind
        mantissa = largest / 2.0**floor - 1
        return floor - emax + (mantissa > (0.75 if dst_type_max == 7 else 0.5))
    scale = float(torch.tensor(largest) / torch.tensor(dst_type_max))  # float32
    whole, power = math.frexp(scale)
    return power - 1 + (whole != 0.5)


def mx(x, axis, element, **scale):
    """Blocks of 32 along an axis of [tokens, head_dim]."""
    rows = x.double() if axis == 1 else x.double().T
    blocks = torch.nn.functional.pad(rows, (0, -rows.shape[1] % 32)).unflatten(1, (-1, 32))
    how = {**scale, "emax": 2 if element is e2m1 else 8}
    power = torch.tensor([[2.0 ** exponent(m, **how) for m in row] for row in blocks.abs().amax(2).tolist()], dtype=torch.float64)[..., None]
    out = (element(blocks / power) * power).flatten(1)[:, : rows.shape[1]]
    return out if axis == 1 else out.T


def rounded(q, k, v, precision, mode=None, **scale):
    if precision == "fp8":
        tokens, channels = ((128, 256, 512), 64) if mode == "C8V16_TILING512" else ((128, 256, 256), 128)
        return (fp8_blocks(q, tokens[0], 256), fp8_blocks(k, tokens[1], 256), fp8_blocks(v, tokens[2], channels))
    element = e4m3 if precision == "mxfp8" else e2m1
    return mx(q, 1, element, **scale), mx(k, 1, element, **scale), mx(v, 0, element, **scale)


def expected(q, k, v, precision, *, scale=None, before=10**9, behind=10**9, rotations=(None, None), pad=0, **how):
    """BNSD; k and v with fewer heads."""
    q, k = (t if r is None else t @ r.to(t.dtype) for t, r in zip((q, k), rotations))
    out = torch.empty(q.shape, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            own = h // (q.shape[1] // k.shape[1])
            parts = [torch.nn.functional.pad(t, (0, 0, 0, -len(t) % pad if pad else 0)) for t in (q[b, h], k[b, own], v[b, own])]
            x, y, z = rounded(*parts, precision, **how)
            distance = torch.arange(len(y))[None] - torch.arange(len(x))[:, None]
            scores = (x @ y.T * (q.shape[-1] ** -0.5 if scale is None else scale)).masked_fill((distance < -before) | (distance > behind), -torch.inf)
            out[b, h] = (torch.softmax(scores, -1).nan_to_num(0.0) @ z)[: q.shape[2]]
    return out


def close(o, wanted, dtype=torch.float32):
    assert o.dtype == dtype and o.shape == wanted.shape
    within = 8 * torch.finfo(dtype).eps if dtype != torch.float32 else 2e-6
    torch.testing.assert_close(o.double(), wanted, atol=within * float(wanted.abs().max()) + 1e-9, rtol=1e-2 if dtype != torch.float32 else 2e-5)


def arrays(q_len, k_len, dim=64, heads=(4, 2), like=(1, torch.float32)):
    """like: the batch and the dtype; heads: of q, and of k and v."""
    (batch, dtype), (heads, kv_heads) = like, heads
    q = torch.randn(batch, heads, q_len, dim) * torch.rand(q_len, 1).exp()
    return [t.to(dtype) for t in (q, torch.randn(batch, kv_heads, k_len, dim), torch.randn(batch, kv_heads, k_len, dim) * torch.rand(dim).exp())]


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "mxfp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layouts_dtypes_heads_and_scales(precision, dtype):
    batch = 1 if precision == "fp8" else 2
    q, k, v = arrays(50, 270, 40 if dtype == torch.float32 else 64, like=(batch, dtype))
    for scale in (None, 0.3):
        wanted = expected(q, k, v, precision, scale=scale)
        close(quant_attention(q, k, v, precision, scale=scale), wanted, dtype)
        o = quant_attention(*(t.transpose(1, 2) for t in (q, k, v)), precision=precision, layout="BSND", scale=scale)
        close(o.transpose(1, 2), wanted, dtype)
    close(quant_attention(q, k, v, precision, scale=0.0), expected(q, k, v, precision, scale=0.0), dtype)
    close(quant_attention(q, k, v, precision, scale=-0.1), expected(q, k, v, precision, scale=-0.1), dtype)


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "mxfp4"])
@pytest.mark.parametrize("given", ["q", "k", "both"])
def test_rotations_in_the_dtype_of_the_queries(precision, given):
    q, k, v = arrays(40, 50, like=(1, torch.bfloat16))
    rotation = torch.linalg.qr(torch.randn(64, 64))[0]
    rotations = (rotation if given != "k" else None, 2 * rotation if given != "q" else None)
    wanted = expected(q, k, v, precision, rotations=rotations)
    close(quant_attention(q, k, v, precision, q_rot=rotations[0], k_rot=rotations[1]), wanted, torch.bfloat16)


WINDOWS = [(10**9, 0, 700, 700), (10**9, 0, 600, 700), (10, 5, 700, 700), (0, 0, 40, 40), (600, 3, 530, 1030), (2147483647, -5, 30, 40),
           (-3, 10**9, 30, 40), (1, 1, 530, 8)]


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "mxfp4"])
@pytest.mark.parametrize(("before", "behind", "q_len", "k_len"), WINDOWS)
def test_windows(precision, before, behind, q_len, k_len):
    q, k, v = arrays(q_len, k_len, dim=32, heads=(1, 1))
    o = quant_attention(q, k, v, precision, pre_tokens=before, next_tokens=behind)
    close(o, expected(q, k, v, precision, before=before, behind=behind))


@pytest.mark.parametrize("mode", [None, "HIGH_PRECISION", "c8v16_tiling512", FP8FAMode.C8V16_TILING512])
def test_fp8_modes(mode):
    q, k, v = arrays(140, 700, dim=160, heads=(2, 2))
    v[:, :, :, ::3] *= 8
    mode_of_oracle = None if mode in (None, "HIGH_PRECISION") else "C8V16_TILING512"
    wanted = expected(q, k, v, "fp8", mode=mode_of_oracle)
    close(quant_attention(q, k, v, fp8_fa_mode=mode), wanted)
    other = quant_attention(q, k, v, fp8_fa_mode="C8V16_TILING512" if mode_of_oracle is None else None)
    assert (other.double() - wanted).abs().max() > 1e-4


def test_block_quantization_of_arrays():
    x = torch.randn(1, 3, 300, 160)
    x[:, :, 256:] = 0
    for layout in ("BNSD", "BSND"):
        given = x if layout == "BNSD" else x.transpose(1, 2)
        values, scales = fa_block_quant_preprocess(given, block_size=256, col_block_size=64, dst_type=torch.float8_e4m3fn, layout=layout)
        assert values.dtype == torch.float8_e4m3fn and values.shape == x.shape and scales.shape == (1, 3, 2, 3)
        for head in range(3):
            repeated = scales[0, head].repeat_interleave(256, 0)[:300].repeat_interleave(64, 1)[:, :160]
            assert torch.equal((values[0, head].float() * repeated).double(), fp8_blocks(x[0, head], 256, 64))
    for arguments, error in (((x[0],), ParametersInvalid), ((x, 0), ParametersInvalid), ((x, 128, 128, torch.int8), ParametersInvalid)):
        with pytest.raises(error, match=r"\[fa_block_quant_preprocess\]"):
            fa_block_quant_preprocess(*arguments)
    with pytest.raises(TypeError, match="laoyut"):
        fa_block_quant_preprocess(x, laoyut="BNSD")


SCALES = [dict(algorithm=0), dict(algorithm=2), dict(algorithm=2, dst_type_max=6.0), dict(algorithm=2, dst_type_max=7.0),
          dict(algorithm=2, dst_type_max=7.25), dict(algorithm=2, dst_type_max=12.0)]


@pytest.mark.parametrize("scale", SCALES)
def test_scales_of_mxfp4(scale):
    q, k, v = arrays(65, 70, dim=72)
    k[0, 0, 0, :8] = torch.tensor([6.0, 7.0, 7.25, 12.0, 1.5, 1.75, 0.0, 2.0**-140])
    v[0, 0, :32, 0] = 0
    o = quant_attention(q, k, v, "mxfp4", mxfp4_scale_alg=scale["algorithm"], mxfp4_dst_type_max=scale.get("dst_type_max"))
    close(o, expected(q, k, v, "mxfp4", **scale))
    if scale["algorithm"] == 2:
        assert not torch.equal(o, quant_attention(q, k, v, "mxfp4"))
        assert torch.equal(o, quant_attention(q, k, v, "mxfp4", mxfp4_scale_alg=2, mxfp4_dst_type_max=scale.get("dst_type_max", 6.0)))


def test_padding_of_mxfp4_is_left_out_unless_it_is_asked_for():
    q, k, v = arrays(100, 600)
    plain = quant_attention(q, k, v, "mxfp4")
    close(plain, expected(q, k, v, "mxfp4"))
    strict = quant_attention(q, k, v, "mxfp4", strict=True)
    close(strict, expected(q, k, v, "mxfp4", pad=512))
    assert (plain - strict).abs().max() > 1e-3
    swapped = [t.transpose(1, 2) for t in (q, k, v)]
    assert torch.equal(quant_attention(*swapped, "mxfp4", layout="BSND", strict=True).transpose(1, 2), strict)
    whole = quant_attention(q, k, v, "mxfp4", strict=True, win_right=0)
    close(whole, expected(q, k, v, "mxfp4", pad=512, behind=0))


def test_layouts_of_mxfp4_may_differ_and_native_keywords_ask_for_nothing():
    q, k, v = arrays(33, 40)
    wanted = quant_attention(q, k, v, "mxfp4", pre_tokens=9, next_tokens=2)
    o = quant_attention(q, k.transpose(1, 2), v.transpose(1, 2), "mxfp4", layout_kv="BSND", layout_out="BSND", num_key_value_heads=2, win_left=9,
                        win_right=2, metadata=None, block_table=None, sinks=None, attn_mask=None, mask_mode=0, max_seqlen_q=-1, max_seqlen_kv=-1,
                        return_softmax_lse=0, mxfp4_scale_alg=None, mxfp4_dst_type_max=None)
    assert torch.equal(o.transpose(1, 2), wanted)
    for keywords in (dict(sinks=q), dict(attn_mask=q), dict(mask_mode=3), dict(block_table=[1])):
        with pytest.raises(NotImplementedError, match=rf"{next(iter(keywords))} is of the operator on a card"):
            quant_attention(q, k, v, "mxfp4", **keywords)


def test_what_mindie_sd_refuses_is_refused():
    q = torch.randn(1, 2, 17, 64)
    for precision in ("float", "int4", None):
        with pytest.raises(ValueError, match="attention_forward"):
            quant_attention(q, q, q, precision)
    for precision, name in (("fp8", "precisoin"), ("fp8", "mxfp4_scale_alg"), ("fp8", "softmax_scale"), ("mxfp8", "fp8_fa_mode"), ("mxfp4", "fp8_fa_mode"),
                            ("fp8", "strict"), ("fp8", "layout_kv")):
        with pytest.raises(TypeError, match=name):
            quant_attention(q, q, q, precision, **{name: "unused"})
    three = q[:, :1].expand(-1, 3, -1, -1)
    cases = [((None, q, q), {}, "query must be a tensor"), ((q, q, q), dict(layout="TND"), "layout"), ((q, q[:, :, :8], q), {}, "one shape"),
             ((q, q.half(), q.half()), {}, "one dtype"), ((q.double(), q.double(), q.double()), {}, "one dtype"), ((q, q.to("meta"), q), {}, "one device"),
             ((q, q[..., :32], q[..., :32]), {}, "head_dim"), ((q, three, three), {}, "multiple"), ((q[:, :, :0], q, q), {}, "non-empty"),
             ((q, q, q), dict(q_rot=torch.ones(64, 32)), "q_rot must have shape"), ((q, q, q), dict(k_rot=[1]), "k_rot must have shape"),
             ((q, q, q), dict(pre_tokens=1.5), "pre_tokens"), ((q, q, q), dict(scale="a"), "scale must be a number"), ((q.expand(2, -1, -1, -1),) * 3 , {}, "batch of 1")]
    for tensors, keywords, message in cases:
        with pytest.raises(ValueError, match=rf"\[quant_attention\].*{message}"):
            quant_attention(*tensors, **keywords)
    with pytest.raises(ParametersInvalid, match="MIE06E000001.*fp8_fa_mode must be one of"):
        quant_attention(q, q, q, fp8_fa_mode="fast")
    for keywords in (dict(num_key_value_heads=4), dict(num_key_value_heads=True), dict(layout_out="TND"), dict(mxfp4_scale_alg=1),
                     dict(mxfp4_dst_type_max=5.0, mxfp4_scale_alg=2), dict(mxfp4_dst_type_max="6")):
        with pytest.raises(ValueError, match=next(iter(keywords))):
            quant_attention(q, q, q, "mxfp4", **keywords)


@pytest.mark.parametrize("scale", [dict(), dict(mxfp4_dst_type_max=0.0), dict(mxfp4_dst_type_max=7.25), dict(mxfp4_scale_alg=2, mxfp4_dst_type_max=6.0)])
def test_sparse_attention_in_mxfp4(scale):
    """The mask is that of the arrays as they are; test_precision.py has the rounding."""
    q, k, v = (torch.randn(1, 2, 4 * 8 * 16, 64) for _ in range(3))
    where = dict(sparse_type="rf_v3", sparsity=0.6, latent_shape_q=[4, 8, 16], latent_shape_k=[4, 8, 16], block_size=16)
    o = sparse_attention(q, k, v, head_num=2, inner_precise=4, precision="mxfp4", **where, **scale)
    wanted, mask = aerogel.sparse_attention(q, k, v, precision="mxfp4", return_mask=True, **where, **scale)
    _, plain = aerogel.sparse_attention(q, k, v, return_mask=True, **where)
    assert torch.equal(o, wanted) and torch.equal(mask, plain) and mask.float().mean() < 0.95
    exact = sparse_attention(q, k, v, **where)
    assert 1e-3 < (o - exact).norm() / exact.norm() < 0.4
    if scale.get("mxfp4_dst_type_max"):
        assert not torch.equal(o, sparse_attention(q, k, v, precision="mxfp4", **where))
    with pytest.raises(ParametersInvalid, match="mxfp4 go with rf_v3"):
        sparse_attention(q, k, v, precision="mxfp4", **{**where, "sparse_type": "rf_v2"})
