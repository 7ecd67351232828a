"""QuantizedLinear beside plain PyTorch arithmetic: values, dtypes, shapes, and what torch does to modules."""
import copy
import io
import pickle

import aerogel
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

DYNAMIC = ("W8A8_DYNAMIC", "W8A16")


def quantized_weight(weight):
    scale = (weight.abs().amax(1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).eps)
    return torch.clamp((weight / scale).round(), -127, 127), scale


def expected(linear, x, scheme):
    """W8A16 and W8A8_DYNAMIC, written out in float64 on exact integers."""
    q, scale = quantized_weight(linear.weight.detach())
    if scheme == "W8A8_DYNAMIC":
        s = x.float().abs().amax(-1, keepdim=True) / 127
        s = torch.where(s == 0, 1.0, s)
        y = (((x.float() / s).round().double() @ q.double().T).float() * s) * scale[:, 0]
    else:
        y = (x.double() @ (q.double() * scale.double()).T).float()
    return y if linear.bias is None else y + linear.bias.detach()


@pytest.mark.parametrize("scheme", DYNAMIC)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5, 37), (2, 3, 37), (1, 37), (37,), (0, 37)])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_equals_the_formula(scheme, dtype, shape, bias):
    linear = nn.Linear(37, 19, bias=bias)
    x = torch.randn(shape).to(dtype)
    y = aerogel.QuantizedLinear.from_linear(linear, scheme)(x)
    assert y.shape == (*shape[:-1], 19) and y.dtype == dtype
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(y.float(), expected(linear, x, scheme), rtol=tolerance, atol=tolerance)


def test_rows_may_have_gaps_and_columns_may_be_strided():
    layer = aerogel.QuantizedLinear.from_linear(nn.Linear(16, 8))
    wide = torch.randn(6, 40)
    assert torch.equal(layer(wide[:, 3:19]), layer(wide[:, 3:19].clone()))
    assert torch.equal(layer(wide.T[:16].T), layer(wide[:, :16].clone()))
    deep = torch.randn(2, 5, 3, 16).transpose(1, 2)
    assert torch.equal(layer(deep), layer(deep.clone(memory_format=torch.contiguous_format)))
    assert torch.equal(layer(wide[:, ::2][:, :16]), layer(wide[:, ::2][:, :16].clone()))


IN_MEMORY = [name for name, _, needs_data in aerogel.schemes() if not needs_data]


@pytest.mark.parametrize("scheme", IN_MEMORY)
def test_every_scheme_without_data_multiplies_with_its_dequantized_weight(scheme):
    linear, x = nn.Linear(64, 24), torch.randn(5, 64)
    layer = aerogel.QuantizedLinear.from_linear(linear, scheme)
    weight = layer.dequantized()
    weight_error = float(((weight - linear.weight).norm() / linear.weight.norm()).detach())
    assert weight_error < (0.01 if scheme.startswith("W8A8_DYN") or scheme == "W8A16" else 0.2)
    wanted = torch.nn.functional.linear(x, weight, linear.bias).detach()
    error = float((layer(x) - wanted).norm() / wanted.norm())
    weight_only = "A16" in scheme
    assert error < 1e-5 if weight_only else 1e-4 < error < 0.2, error


@pytest.mark.parametrize("scheme, group_size", [("W8A16", 16), ("W4A16", 32)])
def test_groups_share_scales(scheme, group_size):
    linear = nn.Linear(64, 24)
    linear.weight.data[:, :16] *= 100
    whole, groups = (aerogel.QuantizedLinear.from_linear(linear, scheme, group_size=g) for g in (0, group_size))
    assert groups.weight_scale.shape == (24, 64 // group_size)
    small = linear.weight.detach()[:, group_size:]
    errors = [(layer.dequantized()[:, group_size:] - small).norm() for layer in (whole, groups)]
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("scheme", IN_MEMORY)
def test_modules_survive_what_torch_does_to_them(scheme):
    layer = aerogel.QuantizedLinear.from_linear(nn.Linear(64, 24), scheme)
    x = torch.randn(4, 64)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = aerogel.QuantizedLinear.from_linear(nn.Linear(64, 24), scheme)
    assert not torch.equal(other(x), y)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other(x), y)
    stored = layer.weight_scale.dtype
    assert torch.equal(layer.to(torch.bfloat16)(x), y) and layer.weight_scale.dtype == stored
    with torch.inference_mode():
        assert torch.equal(layer(x), y)


def test_a_deepcopy_is_independent():
    layer = aerogel.QuantizedLinear.from_linear(nn.Linear(8, 8))
    twin = copy.deepcopy(layer)
    assert twin.weight.data_ptr() != layer.weight.data_ptr()
    before = layer(torch.ones(1, 8))
    twin.load_state_dict({**twin.state_dict(), "weight": torch.zeros_like(twin.weight)})
    assert torch.equal(layer(torch.ones(1, 8)), before) and not torch.equal(twin(torch.ones(1, 8)), before)


def test_compile_has_no_graph_break():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = (aerogel.QuantizedLinear.from_linear(nn.Linear(*s)) for s in ((16, 32), (32, 16)))

        def forward(self, x):
            return x + self.down(torch.nn.functional.gelu(self.up(x)))

    block, x = Block(), torch.randn(5, 16)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), block(x))
    (names, *layout), arrays = block.up._stored()
    torch.library.opcheck(torch.ops.aerogel.linear, (x.requires_grad_(), arrays, ",".join(names), *layout, ""))


def test_whoever_watches_sees_the_operator():
    """Calls that nothing watches skip torch's dispatcher; modes, fake tensors and gradients do not."""
    layer, x = aerogel.QuantizedLinear.from_linear(nn.Linear(12, 7)), torch.randn(3, 12)
    y, seen = layer(x), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        assert torch.equal(layer(x), y)
    assert "aerogel.linear.default" in seen
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = layer(mode.from_tensor(x))
    assert isinstance(fake, FakeTensor) and fake.shape == y.shape
    assert torch.equal(layer(nn.Parameter(x)), y) and layer(nn.Parameter(x)).requires_grad
    with torch.device("meta"):
        assert torch.equal(layer(x), y)


def test_views_that_only_look_different():
    """Negated views (torch stores a bit), transposes and expanded rows."""
    layer, x = aerogel.QuantizedLinear.from_linear(nn.Linear(12, 7)), torch.randn(3, 12)
    assert torch.equal(layer(torch._neg_view(x)), layer(-x))
    assert torch.equal(layer(x[:1].expand(4, 12)), layer(x[:1].repeat(4, 1)))
    assert torch.equal(layer(x.T.contiguous().T), layer(x))
    assert torch.equal(layer(input=x), layer(x))


def test_gradients_reach_the_input_through_the_dequantized_weight():
    linear = nn.Linear(12, 7)
    layer = aerogel.QuantizedLinear.from_linear(linear)
    x = torch.randn(3, 12, requires_grad=True)
    layer(x).square().sum().backward()
    q, scale = quantized_weight(linear.weight.detach())
    torch.testing.assert_close(layer.dequantized(), q * scale)
    torch.testing.assert_close(x.grad, 2 * layer(x.detach()) @ (q * scale))


def test_bad_input_is_refused():
    layer = aerogel.QuantizedLinear.from_linear(nn.Linear(12, 7))
    with pytest.raises(ValueError, match=r"\[linear\] x must have 12 columns, got \[3, 11\]"):
        layer(torch.ones(3, 11))
    with pytest.raises(ValueError, match="x must be float32, bfloat16 or float16, got torch.int64"):
        layer(torch.ones(3, 12, dtype=torch.int64))
    with pytest.raises(NotImplementedError, match="run on the CPU or on an NVIDIA GPU, not on meta"):
        layer.to("meta")
    broken = nn.Linear(4, 4)
    broken.weight.data[2, 1] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        aerogel.QuantizedLinear.from_linear(broken)
    with pytest.raises(ValueError, match="there is no scheme 'W9A9'"):
        aerogel.QuantizedLinear.from_linear(nn.Linear(4, 4), "W9A9")
    with pytest.raises(ValueError, match="W8A8_TIMESTEP needs calibrated"):
        aerogel.QuantizedLinear.from_linear(nn.Linear(4, 4), "W8A8_TIMESTEP")
    state = layer.state_dict()
    state["weight_scale"] = torch.full_like(state["weight_scale"], float("inf"))
    with pytest.raises(RuntimeError, match="QuantizedLinear: .*weight_scale has the value inf.*stays as it was"):
        layer.load_state_dict(state)
