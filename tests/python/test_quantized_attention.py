"""aerogel.quantized_attention: every format against a slow rounding of q, k and v and attention in float64."""
import json
import os
import subprocess
import sys

import aerogel
import attention_reference as reference
import numpy as np
import pytest
import torch
from aerogel.attention.module import QuantizedAttention

FORMATS = ["int8", "fp8", "mxfp8", "mxfp4", "mix", "int8_qk"]


def qkv(batch=2, heads=3, q_len=37, k_len=70, head_dim=32):
    return [torch.randn(batch, heads, n, head_dim) for n in (q_len, k_len, k_len)]


def relative(a, b):
    return float((a.double() - b).norm() / b.norm())


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("sizes", [dict(), dict(batch=1, heads=1, q_len=1, k_len=1, head_dim=40), dict(heads=1, q_len=130, k_len=257, head_dim=16)])
def test_formats_round_as_they_say(format, sizes):
    q, k, v = qkv(**sizes)
    exact = reference.plain(*reference.rounded(q, k, v, format))
    o = aerogel.quantized_attention(q, k, v, format, smooth_k=False)
    torch.testing.assert_close(o.double(), exact, atol=2e-5, rtol=2e-5)
    if format not in ("mix", "int8_qk") or k.shape[2] > 1:  # a scale per channel of v, or v as it is: a single token stays as it is
        assert relative(o, reference.plain(q, k, v)) > 1e-3  # the rounding is there


@pytest.mark.parametrize("format", FORMATS)
def test_layouts_types_and_kinds_agree(format):
    q, k, v = qkv()
    o = aerogel.quantized_attention(q, k, v, format, scale=0.3)
    swapped = aerogel.quantized_attention(*(t.transpose(1, 2) for t in (q, k, v)), format, input_layout="BSND", scale=0.3)
    torch.testing.assert_close(swapped.transpose(1, 2), o, atol=1e-6, rtol=1e-6)
    array = aerogel.quantized_attention(*(t.numpy() for t in (q, k, v)), format, scale=0.3)
    assert isinstance(array, np.ndarray) and np.array_equal(array, o.numpy())
    half = aerogel.quantized_attention(*(t.half() for t in (q, k, v)), format, scale=0.3)
    assert half.dtype == torch.float16
    if format == "int8":
        assert relative(o, reference.plain(q, k, v, 0.3)) < 0.02
    else:  # k is smoothed: its mean comes off first
        torch.testing.assert_close(o.double(), reference.plain(*reference.rounded(q, k - k.mean(2, keepdim=True), v, format), 0.3),
                                   atol=2e-5, rtol=2e-5)
    assert relative(half, o.double()) < 0.02


@pytest.mark.parametrize("format", FORMATS)
def test_rotation_comes_before_rounding(format):
    q, k, v = qkv(head_dim=64)
    q[..., 9] *= 20
    rotation = torch.linalg.qr(torch.randn(64, 64))[0]
    exact = reference.plain(q, k, v)
    turned = aerogel.quantized_attention(q, k, v, format, rotation=rotation, smooth_k=False)
    if format != "int8":
        rounded = reference.rounded((q.double() @ rotation.double()).float(), (k.double() @ rotation.double()).float(), v, format)
        assert relative(turned, reference.plain(*rounded)) < 0.02
    else:
        assert relative(turned, exact) < relative(aerogel.quantized_attention(q, k, v, format, smooth_k=False), exact)
    pair = aerogel.quantized_attention(q, k, v, format, rotation=(rotation, rotation), smooth_k=False)
    assert torch.equal(pair, turned)


def test_calibrated_scales(aerogel_command):
    level = json.loads(aerogel_command("inspect", "--kernels", "--json").stdout)["level"]
    bound = 0.02 if level == "avx2" else 0.01  # softmax weights have seven bits there instead of eight
    q, k, v = (t[0] for t in qkv(batch=1))
    scales = {f"{n}_scale": t.abs().amax((1, 2)) / 100 for n, t in (("q", q), ("k", k), ("v", v))}
    offsets = {"q_offset": torch.tensor([3.0, -5.0, 0.0]), "v_offset": torch.tensor([[0.0], [7.0], [-1.0]])}
    o = aerogel.quantized_attention(q[None], k[None], v[None], scales=scales | offsets)
    parts = [reference.static_int8(t, scales[f"{n}_scale"], offsets.get(f"{n}_offset", torch.zeros(3))) for n, t in (("q", q), ("k", k), ("v", v))]
    assert relative(o[0], reference.plain(*parts)) < bound
    parts[2] = parts[2] * 1.1
    assert relative(o[0], reference.plain(*parts)) > 0.05


@pytest.mark.parametrize("format", FORMATS)
def test_packed_sequences_are_each_by_themselves(format):
    q, k, v = (torch.randn(50, 3, 32) for _ in range(3))
    o = aerogel.quantized_attention(q, k, v, format, seq_len=torch.tensor([17, 0, 32, 1]))
    for a, b in ((0, 17), (17, 49), (49, 50)):
        one = aerogel.quantized_attention(*(t[None, a:b] for t in (q, k, v)), format, input_layout="BSND")
        torch.testing.assert_close(o[a:b], one[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
def test_the_module_smooths_what_is_int8_only(format):
    q, k, v = qkv()
    k += 3
    smooth = format.startswith("int8")
    assert torch.equal(QuantizedAttention(format, smooth_k=True)(q, k, v), aerogel.quantized_attention(q, k, v, format, smooth_k=smooth))
    with pytest.raises(ValueError, match="packed sequences take no key_mask"):
        QuantizedAttention(format)(q[0], q[0], q[0], key_mask=torch.ones(1, 3, dtype=torch.bool))


def test_errors():
    q, k, v = qkv()
    cases = [(dict(format="int4"), "format must be one of"), (dict(input_layout="TND"), "BNSD or BSND"), (dict(scale=0), "scale must be"),
             (dict(rotation=torch.eye(31)), r"q_rotation must be .*\[32,32\]"), (dict(scales={"q_scale": [1.0]}), "missing: k_scale, v_scale"),
             (dict(scales={n: torch.ones(3) for n in ("q_scale", "k_scale", "v_scale", "z")}), "unknown: z"),
             (dict(scales={n: torch.ones(2) for n in ("q_scale", "k_scale", "v_scale")}), "scale"), (dict(seq_len=[37]), "quantized_attention"),
             (dict(format="mxfp8", block_tokens=(64, 64)), "q_tokens")]
    for keywords, message in cases:
        with pytest.raises(ValueError, match=message):
            aerogel.quantized_attention(q, k, v, **keywords)
    with pytest.raises(ValueError, match="must have one dtype"):
        aerogel.quantized_attention(q, k, v.half())
    packed = torch.randn(5, 3, 32)
    with pytest.raises(ValueError, match="must sum to 5, got 4"):
        aerogel.quantized_attention(packed, packed, packed, seq_len=[4])


_DISPATCH = """
import torch, aerogel
q, k = torch.randn(1, 4, 5, 32), torch.randn(1, 2, 7, 32)
for format in ("fp8", "mxfp8", "mxfp4", "mix", "int8_qk"):
    aerogel.quantized_attention(q, k, k, format)
aerogel.attention(q, k, k)
"""


def test_the_log_shows_the_kernel_of_every_format_and_one_can_be_forced():
    def lines(**variables):
        result = subprocess.run([sys.executable, "-c", _DISPATCH], env={**os.environ, "AEROGEL_LOG": "dispatch", **variables}, capture_output=True,
                                text=True, timeout=100, check=True)
        return [line for line in result.stderr.splitlines() if "attention batch=1 heads=4 kv_heads=2 q_len=5 k_len=7 head_dim=32 dtype=f32" in line]

    chosen, forced = lines(), lines(AEROGEL_KERNEL="reference.rounded_attention")
    assert len(chosen) == len(forced) == 6
    for line, again, format in zip(chosen, forced, ("fp8", "mxfp8", "mxfp4", "mix", "int8_qk")):
        assert f"format={format} -> cpu." in line and ".rounded_attention" in line and "int8_attention" not in line
        assert f"format={format} -> reference.rounded_attention (forced by AEROGEL_KERNEL)" in again
    assert chosen[5] == forced[5] and "rounded" not in forced[5]
