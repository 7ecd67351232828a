"""The layers against plain torch in float64, in every layout and dtype, and their errors."""
import pytest
import torch
from mindiesd import RMSNorm, fast_layernorm, get_activation_layer, layernorm_scale_shift, rotary_position_embedding
from mindiesd.layers import muls_add, residual_gate_add
from mindiesd.utils import ParametersInvalid
from torch import nn

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def near(actual, exact, dtype):
    """actual has the dtype and is exact up to one rounding to it (and float32 arithmetic)."""
    assert actual.dtype == dtype
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), exact, atol=4 * eps, rtol=max(eps, 1e-5))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 7), (2, 5, 16), (1, 2, 3, 33), (1, 1, 1, 1, 1, 1, 2, 5)])
@pytest.mark.parametrize("fused", [True, False])
def test_rms_norm(shape, dtype, fused):
    norm = RMSNorm(shape[-1], eps=1e-3)
    assert list(norm.state_dict()) == ["weight"] and norm.variance_epsilon == 1e-3 and bool((norm.weight == 1).all())
    nn.init.normal_(norm.weight)
    x = (torch.randn(shape) * 0.1).to(dtype)
    wide = x.double()
    exact = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight.double()
    near(norm(x, fused).detach(), exact.detach(), dtype)


def test_rms_norm_of_large_half_values_does_not_overflow():
    x = torch.full((2, 8), 60000.0, dtype=torch.float16)
    near(RMSNorm(8)(x).detach(), torch.ones(2, 8).double(), torch.float16)
    for wrong in (torch.ones(3), torch.ones([1] * 9)):
        with pytest.raises(ParametersInvalid, match="2 to 8 axes"):
            RMSNorm(1)(wrong)


def rotated_by_pairs(x, cos, sin, mode):
    """The definition, one channel at a time; cos and sin broadcast over x."""
    d = x.shape[-1]
    out, cos, sin = torch.empty_like(x), cos.expand_as(x), sin.expand_as(x)
    for i in range(d):
        if mode == "rotated_half":
            partner, sign = (i + d // 2, -1) if i < d // 2 else (i - d // 2, 1)
        else:
            partner, sign = (i + 1, -1) if i % 2 == 0 else (i - 1, 1)
        out[..., i] = x[..., i] * cos[..., i] + sign * x[..., partner] * sin[..., i]
    return out


@pytest.mark.parametrize("mode", ["rotated_half", "rotated_interleaved"])
@pytest.mark.parametrize(("layout", "tables"), [("BNSD", "SD"), ("BSND", "SD"), ("BNSD", "11SD"), ("BSND", "1S1D"), ("SBND", "S11D")])
@pytest.mark.parametrize("dtype", TYPES)
def test_rotary(mode, layout, tables, dtype):
    sizes = {"B": 2, "N": 3, "S": 5, "D": 6, "1": 1}
    x = torch.randn([sizes[a] for a in layout]).to(dtype)
    angles = torch.rand([sizes[a] for a in tables]) * 6
    cos, sin = angles.cos(), angles.sin()
    four = [sizes["S"] if a == "S" else sizes["D"] if a == "D" else 1 for a in layout]
    exact = rotated_by_pairs(x.double(), cos.double().reshape(four), sin.double().reshape(four), mode)
    near(rotary_position_embedding(x, cos, sin, mode, head_first=layout == "BNSD"), exact, dtype)
    near(rotary_position_embedding(x, cos, sin, rotated_mode=mode, head_first=layout == "BNSD", fused=False), exact, dtype)


def test_rotary_errors():
    x, table = torch.randn(2, 3, 5, 6), torch.randn(5, 6)
    cases = [((x[0], table, table), {}), ((x[..., :5], table, table), {}), ((x, table, table), {}), ((x, table, table[None]), {"head_first": True}),
             ((x, table, table), {"head_first": True, "rotated_mode": "half"}), ((x, [1], table), {"head_first": True}),
             ((x, table, table[None, None]), {"head_first": True}), ((x, table, table), {"head_first": 1}), ((x, table, torch.randn(1, 1, 4, 6)), {"head_first": True})]
    for arguments, keywords in cases:
        with pytest.raises(ParametersInvalid, match=r"\[rotary_position_embedding\]"):
            rotary_position_embedding(*arguments, **keywords)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shapes", [((2, 7), (2, 7)), ((2, 1, 7), (2, 5, 7)), ((2, 5, 7), (2, 7))])
def test_layernorm_scale_shift(shapes, affine, dtype):
    norm = nn.LayerNorm(7, eps=1e-4, elementwise_affine=affine)
    if affine:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    x, scale, shift = (torch.randn(s).to(dtype) for s in ((2, 5, 7), *shapes))
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    exact = centred / (centred.square().mean(-1, keepdim=True) + 1e-4).sqrt()
    if affine:
        exact = exact * norm.weight.double() + norm.bias.double()
    near(fast_layernorm(norm, x).detach(), exact.detach(), dtype)
    scale4, shift4 = (t.double()[:, None] if t.dim() == 2 else t.double() for t in (scale, shift))
    for fused in (True, False):
        near(layernorm_scale_shift(norm, x, scale, shift, fused).detach(), (exact * (1 + scale4) + shift4).detach(), dtype)


def test_layernorm_errors():
    norm, x, row = nn.LayerNorm(7), torch.randn(2, 5, 7), torch.randn(2, 7)
    for arguments in [(nn.Linear(1, 1), x, row, row), (norm, x[0], row, row), (norm, x, row[:1], row), (norm, x, row, row[:, :6]),
                      (norm, x, torch.randn(2, 4, 7), row), (norm, x, row, row, 1)]:
        with pytest.raises(ParametersInvalid, match=r"\[layernorm_scale_shift\]"):
            layernorm_scale_shift(*arguments)
    for arguments in [(norm, x, 3), (norm, x, 2), (norm, x, 0, None), (norm, torch.tensor(1.0)), (nn.ReLU(), x)]:
        with pytest.raises(ParametersInvalid, match=r"\[fast_layernorm\]"):
            fast_layernorm(*arguments)
    assert fast_layernorm(nn.LayerNorm(7).half(), x.half(), 2).dtype == torch.float16


def test_activation_layers():
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    sigmoid = 1 / (1 + (-x).exp())
    gelu = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    tanh = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    exact = {"swish": x * sigmoid, "silu": x * sigmoid, "mish": x * torch.tanh((1 + x.exp()).log()), "gelu": gelu, "relu": x.clamp(min=0),
             "gelu-tanh": tanh, "gelu-fast": x / (1 + (-1.702 * x).exp())}
    for name, wanted in exact.items():
        for spelled in (name, name.upper()):
            layer = get_activation_layer(spelled)
            assert isinstance(layer, nn.Module)
            torch.testing.assert_close(layer(x), wanted, atol=1e-12, rtol=1e-12)
    for wrong in ("gelu_tanh", "", None):
        with pytest.raises(ParametersInvalid, match="act_type must be"):
            get_activation_layer(wrong)


def test_gates():
    x, y, gate = torch.randn(2, 5, 7), torch.randn(2, 5, 7), torch.randn(2, 1, 7)
    torch.testing.assert_close(muls_add(x, y, 0.3), 0.3 * x + y)
    near(residual_gate_add(x.bfloat16(), y.bfloat16(), gate), x.bfloat16().double() + y.bfloat16().double() * gate.double(), torch.bfloat16)
