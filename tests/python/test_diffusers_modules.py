"""What stands between the layers of a quantized diffusers model, beside diffusers' own: same numbers, and left alone where somebody watches."""
import copy

import aerogel
import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("diffusers")
import aerogel.diffusers  # noqa: E402
from aerogel.diffusers.feed_forward import activation, gated  # noqa: E402
from aerogel.diffusers import norms  # noqa: E402
from aerogel.diffusers.modules import FASTER, exchange  # noqa: E402
from aerogel.diffusers.norms import FusedRMSNorm  # noqa: E402
from aerogel.diffusers.patches import PatchEmbedding  # noqa: E402
from diffusers import WanTransformer3DModel  # noqa: E402
from diffusers.models.activations import GEGLU, GELU, SwiGLU  # noqa: E402
from diffusers.models.normalization import RMSNorm  # noqa: E402

FUNCTIONS = {"gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "gelu_erf": F.gelu, "silu": F.silu}
TYPES = {torch.float32: 2e-6, torch.bfloat16: 2**-8}


def wan():
    torch.manual_seed(3)
    return WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=8, freq_dim=16,
                                 ffn_dim=48, num_layers=2, rope_max_seq_len=32).eval()


def inputs(dtype=torch.float32):
    torch.manual_seed(4)
    return {"hidden_states": torch.randn(1, 4, 3, 8, 6).to(dtype), "timestep": torch.tensor([500]),
            "encoder_hidden_states": torch.randn(1, 5, 8).to(dtype), "return_dict": False}


def near(got, exact, bound):
    assert got.dtype in TYPES and got.shape == exact.shape
    assert ((got.double() - exact).abs() <= bound * exact.abs() + 1e-7).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(function, dtype):
    x = (torch.randn(2, 7, 333) * 4).to(dtype)
    near(activation(x, function), FUNCTIONS[function](x.double()), TYPES[dtype])
    near(activation(x.transpose(1, 2), function), FUNCTIONS[function](x.double().transpose(1, 2)), TYPES[dtype])
    assert activation(x[:0], function).shape == (0, 7, 333)
    strange = torch.tensor([[torch.inf, -torch.inf, torch.nan, 0.0]], dtype=dtype)
    assert torch.equal(torch.nan_to_num(activation(strange, function)[0, ::3]), torch.nan_to_num(strange[0, ::3])) and activation(strange, function)[0, 2].isnan()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gated_units(function, dtype):
    both = (torch.randn(2, 5, 2 * 131) * 4).to(dtype)
    gate, x = both.chunk(2, dim=-1)
    exact = FUNCTIONS[function](gate.double()) * x.double()
    y = gated(gate, x, function)
    near(y, exact, 2 * TYPES[dtype])
    assert y.is_contiguous()
    near(gated(gate.mT.contiguous().mT, x, function), exact, 2 * TYPES[dtype])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("shape", [(2, 7, 333), (1, 1), (3, 1, 2, 5)])
def test_norms(shape, weighted, dtype, monkeypatch):
    norm = RMSNorm(shape[-1], 1e-5, elementwise_affine=weighted)
    if weighted:
        nn.init.normal_(norm.weight)
    x = (torch.randn(shape) * 3).to(dtype)
    x[0] *= 1e-3
    exact = copy.deepcopy(norm).to(dtype).double()(x.double()).detach()
    norm.to(dtype).__class__ = FusedRMSNorm
    with torch.no_grad():
        near(norm(x), exact, TYPES[dtype])
        near(norm(torch.stack([x, -x], -2)[..., 0, :]), exact, TYPES[dtype])  # rows that lie apart
        seen = []
        monkeypatch.setattr(norms, "rms_norm", lambda *given: seen.append(given))
        for unfit in (x.half(), x.double(), x[:0], torch.stack([x, x], -1)[..., 0], x[(0,) * (x.ndim - 1)]):
            norm(unfit)  # PyTorch's
        with torch.autocast("cpu"):
            norm(x)
        assert not seen
        norm(x)
        assert len(seen) == 1
    norm(x.clone().requires_grad_())
    assert len(seen) == 1


def test_wrong_calls():
    with pytest.raises(ValueError, match=r"\[activation\] function must be gelu_tanh, gelu_erf or silu, got relu"):
        activation(torch.ones(2, 2), "relu")
    with pytest.raises(ValueError, match=r"\[gated\] x must be like gate f32\[2,2\] on cpu, got f32\[2,3\] on cpu"):
        gated(torch.ones(2, 2), torch.ones(2, 3), "silu")
    with pytest.raises(ValueError, match=r"\[activation\] x must be contiguous f32, or bf16 on the CPU"):
        activation(torch.ones(2, 2, dtype=torch.int32), "silu")


def test_every_row_is_its_class_and_keeps_its_state():
    torch.manual_seed(5)
    made = {GELU: lambda: GELU(8, 24, "tanh"), GEGLU: lambda: GEGLU(8, 24), SwiGLU: lambda: SwiGLU(8, 24), nn.Conv3d: lambda: nn.Conv3d(4, 6, 2, 2),
            RMSNorm: lambda: RMSNorm(8, 1e-6)}
    for kind, faster in FASTER.items():
        module = made[kind]() if kind in made else kind(8, 24) if kind.__name__ == "FeedForward" else kind()
        holder = nn.ModuleDict({"it": copy.deepcopy(module)})
        names, x = list(holder.state_dict()), torch.randn(2, 3, 8) if kind is not nn.Conv3d else torch.randn(1, 4, 2, 6, 4)
        with torch.no_grad():
            wanted = module(x)
            exchange(holder, FASTER)
            assert type(holder["it"]) is faster and list(holder.state_dict()) == names
            assert torch.allclose(holder["it"](x), wanted, rtol=1e-5, atol=1e-6)
        grown = x.clone().requires_grad_()
        holder["it"](grown).sum().backward()
        again = x.clone().requires_grad_()
        module(again).sum().backward()
        assert torch.equal(grown.grad, again.grad)
        assert type(copy.deepcopy(holder)["it"]) is faster


@pytest.fixture
def passes(monkeypatch):
    """The functions that the core computes, "in place" or not."""
    seen, core = [], aerogel.diffusers.modules.FusedGELU.__module__
    import aerogel._core as real

    class Watched:
        def activation(self, function, x, y):
            seen.append(function)
            return real.activation(function, x, y)

        def __getattr__(self, name):
            return getattr(real, name)

    monkeypatch.setattr(f"{core}._core", Watched())
    return seen


@pytest.mark.parametrize("dtype", TYPES)
def test_a_quantized_model(dtype, passes):
    model = wan().to(dtype)
    slow = copy.deepcopy(model)
    aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    aerogel.quantize(slow, scheme="W8A8_DYNAMIC")
    for block in slow.blocks:  # as diffusers has it
        block.ffn.net[0].__class__ = GELU
    slow.patch_embedding.__class__ = nn.Conv3d
    assert type(model.patch_embedding) is PatchEmbedding
    with torch.no_grad():
        wanted, kept = slow(**inputs(dtype))[0].double(), []
        assert not passes
        got = model(**inputs(dtype))[0].double()
        assert passes == ["gelu_tanh"] * 2
        assert float((got - wanted).norm() / wanted.norm()) < (1e-3 if dtype == torch.float32 else 2e-2)
        proj = model.blocks[0].ffn.net[0].proj
        handle = proj.register_forward_hook(lambda layer, args, y: kept.append((y, y.clone())))
        model(**inputs(dtype))
        assert torch.equal(*kept[0]), "what a hook keeps is overwritten"
        handle.remove()
    with torch.enable_grad():
        hidden = inputs(dtype)["hidden_states"].requires_grad_()
        model(**{**inputs(dtype), "hidden_states": hidden})[0].sum().backward()
        assert hidden.grad.isfinite().all() and hidden.grad.abs().sum() > 0


def test_compiled_and_exported(one_thread):
    model = wan()
    aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    feed_forward, x = model.blocks[0].ffn, torch.randn(1, 6, 32)
    with torch.no_grad():
        wanted = feed_forward(x)
        assert torch.allclose(torch.compile(feed_forward, fullgraph=True)(x), wanted, atol=1e-5)
        program = torch.export.export(feed_forward, (x,))
        assert torch.allclose(program.module()(x), wanted, atol=1e-5)
        assert torch.allclose(torch.jit.trace(feed_forward, x, check_trace=False)(x), wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_patches(dtype, bias):
    conv = nn.Conv3d(5, 7, (2, 3, 4), (2, 3, 4), bias=bias)
    halves, x = copy.deepcopy(conv).to(dtype), torch.randn(2, 5, 5, 9, 10).to(dtype)
    holder = nn.ModuleDict({"conv": halves})
    exchange(holder, FASTER)
    with torch.no_grad():
        exact = copy.deepcopy(halves).double()
        exact.__class__ = nn.Conv3d
        wanted, got = exact(x.double()), holder["conv"](x)
        assert got.dtype == dtype and got.shape == wanted.shape
        assert float((got.double() - wanted).abs().max()) <= torch.finfo(dtype).eps / 2 * float(wanted.abs().max()) + 1e-5
        with pytest.raises(RuntimeError, match="to have 5 channels"):
            holder["conv"](x[:, :4])
        with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
            holder["conv"](x[..., :3])


def test_only_whole_patches():
    for conv in (nn.Conv3d(4, 4, 3, 1), nn.Conv3d(4, 4, 2, 2, padding=1), nn.Conv3d(4, 4, 2, 2, groups=2), nn.Conv3d(4, 4, 2, 2, dilation=2)):
        holder = nn.ModuleDict({"conv": conv})
        exchange(holder, FASTER)
        assert holder["conv"] is conv
    replaced = nn.ModuleDict({"gelu": GELU(4, 4)})
    replaced["gelu"].forward = lambda x: x
    exchange(replaced, FASTER)
    assert type(replaced["gelu"]) is GELU


def test_dequantized_models_are_as_diffusers_made_them():
    model = wan()
    kinds = [type(module) for module in model.modules()]
    aerogel.quantize(model, scheme="W8A16")
    assert kinds != [type(module) for module in model.modules()]
    model.dequantize()
    assert kinds == [type(module) for module in model.modules()]
