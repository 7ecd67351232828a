"""Quantized layers and attention under whatever records, transforms or watches a call of torch: the right numbers, or a clear refusal."""
import copy
import io
import subprocess
import sys
import textwrap

import aerogel
import pytest
import torch
from aerogel import TimestepManager, TimestepPolicyConfig, _core
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

SCHEMES = ("W8A8_DYNAMIC", "W4A16", "WFP8AFP8_DYNAMIC")


@pytest.fixture(autouse=True)
def unset():
    yield
    TimestepManager.set_timestep_idx(None)


def made(scheme="W8A8_DYNAMIC", bias=True):
    return aerogel.QuantizedLinear.from_linear(nn.Linear(64, 24, bias=bias), scheme)


def by_steps():
    """A W8A8_TIMESTEP layer of two steps that differ."""
    weight = torch.randint(-127, 128, (8, 16), dtype=torch.int8)
    scale = torch.rand(8, 1) + 0.5
    arrays = {"weight": weight, "weight_scale": scale, "input_scale": torch.tensor([0.5, 0.01]), "input_offset": torch.zeros(2),
              "quant_bias": torch.zeros(2, 8, dtype=torch.int32), "deq_scale": torch.stack([0.5 * scale[:, 0], 0.01 * scale[:, 0]])}
    layer = aerogel.QuantizedLinear.from_arrays("W8A8_TIMESTEP", 16, arrays)
    layer.timestep_policy = TimestepPolicyConfig("static")
    return layer


@pytest.mark.parametrize("scheme", SCHEMES)
def test_traced_layers_compute(scheme):
    """The recording holds the operator with the arrays, for any number of rows, also after it was saved."""
    layer, x, file = made(scheme), torch.randn(3, 64), io.BytesIO()
    traced = torch.jit.trace(layer, x)
    torch.jit.save(traced, file)
    file.seek(0)
    more = torch.randn(5, 64)
    for program in (traced, torch.jit.load(file)):
        assert torch.equal(program(more), layer(more))


def test_fx_and_make_fx_keep_the_operator():
    layer, x, more = made(), torch.randn(3, 64), torch.randn(3, 64)
    for graph in (torch.fx.symbolic_trace(nn.Sequential(layer, nn.ReLU())), make_fx(nn.Sequential(layer, nn.ReLU()))(x)):
        assert torch.equal(graph(more), layer(more).relu())


def test_script_and_onnx_are_refused():
    layer = made()
    with pytest.raises(NotImplementedError, match=r"\[linear\] torch.jit.script .* use torch.jit.trace or torch.export"):
        torch.jit.script(nn.Sequential(layer))
    file = io.BytesIO()
    with pytest.raises(Exception, match="aerogel::linear"):
        torch.onnx.export(layer, (torch.randn(3, 64),), file, dynamo=False)
    assert not file.getvalue()


def test_attention_refuses_recorders():
    q = torch.randn(1, 1, 4, 32)
    calls = {"attention": aerogel.attention, "sparse_attention": aerogel.sparse_attention, "quantized_attention": aerogel.quantized_attention}
    for op, call in calls.items():
        with pytest.raises(NotImplementedError, match=rf"\[{op}\] torch.jit.trace cannot see into this call"):
            torch.jit.trace(lambda q: call(q, q, q), q)
        with pytest.raises(NotImplementedError, match=rf"\[{op}\] make_fx"):
            make_fx(lambda q: call(q, q, q))(q)
        with pytest.raises(NotImplementedError, match=rf"\[{op}\] a transform of torch.func"):
            torch.func.vmap(lambda q: call(q, q, q))(q[None])
        with pytest.raises(NotImplementedError, match=rf"\[{op}\] torch.fx"):
            torch.fx.symbolic_trace(lambda q: call(q, q, q))


RUN = textwrap.dedent("""
    import sys, torch, aerogel
    from torch import nn
    others = [aerogel.QuantizedLinear.from_linear(nn.Linear(64, 24)) for _ in range(4)]  # layers that a number could be mistaken for
    module = torch.export.load(sys.argv[1]).module()
    for x, wanted in torch.load(sys.argv[2]):
        assert torch.equal(module(x), wanted)
""")


@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_runs_in_another_process(tmp_path, strict):
    """What is saved holds the arrays, not a name that only this process understands."""
    model = nn.Sequential(made(), nn.ReLU(), aerogel.QuantizedLinear.from_linear(nn.Linear(24, 8, bias=False), "W4A16"))
    x = torch.randn(5, 64)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("rows")},), strict=strict)
        torch.save([(x, model(x)), (x[:2], model(x[:2]))], tmp_path / "io.pt")
    torch.export.save(program, tmp_path / "model.pt2")
    run = subprocess.run([sys.executable, "-c", RUN, tmp_path / "model.pt2", tmp_path / "io.pt"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_programs_pack_their_arrays_once(monkeypatch):
    layer, x, packs = made(), torch.randn(3, 64), []
    program = torch.export.export(layer, (x,)).module()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    from_arrays = _core.Linear.from_arrays

    class Counting:
        check, from_arrays = _core.Linear.check, staticmethod(lambda *a, **arrays: (packs.append(1), from_arrays(*a, **arrays))[1])

    monkeypatch.setattr(_core, "Linear", Counting)
    for _ in range(3):
        assert torch.equal(program(x), layer(x)) and torch.equal(compiled(x), layer(x))
    assert not packs  # all three find the form that was made with the layer
    state = layer.state_dict()
    layer.load_state_dict({**state, "weight_scale": 2 * state["weight_scale"]})
    assert all(torch.equal(run(x), layer(x)) for run in (program, compiled))  # both hold the layer's own tensors
    assert len(packs) == 1


def test_no_form_outlives_its_arrays():
    """New arrays where freed ones were are not taken for them."""
    x = torch.randn(3, 64)
    for _ in range(20):
        layer = made()
        wanted = nn.functional.linear(x, layer.dequantized(), layer.bias)
        again = aerogel.QuantizedLinear.from_arrays(layer.scheme, 64, {n: b.clone() for n, b in layer.named_buffers()})
        del layer
        torch.testing.assert_close(again(x), wanted, rtol=0.05, atol=0.05)


def test_the_step_is_asked_for_when_a_program_runs():
    layer, x = by_steps(), torch.randn(3, 16)
    TimestepManager.set_timestep_idx(0)
    programs = [torch.compile(layer, fullgraph=True, backend="aot_eager"), torch.jit.trace(layer, x), torch.export.export(layer, (x,)).module()]
    results = []
    for step in (1, 0):
        TimestepManager.set_timestep_idx(step)
        results.append(layer(x))
        assert all(torch.equal(program(x), results[-1]) for program in programs)
    assert not torch.equal(*results)
    TimestepManager.set_timestep_idx(None)
    for program in programs:
        with pytest.raises(Exception, match="the timestep index must be in"):
            program(x)
    layer.timestep_policy.register(0, "dynamic", "linear")  # a compiled graph follows the policy, a saved one keeps its own
    TimestepManager.set_timestep_idx(0)
    assert not torch.equal(layer(x), results[1]) and torch.equal(programs[0](x), layer(x)) and torch.equal(programs[2](x), results[1])


def test_a_policy_with_code_of_its_own_stays_out_of_graphs():
    class Mine(TimestepPolicyConfig):
        pass

    layer = by_steps()
    layer.timestep_policy = Mine("dynamic")
    assert layer(torch.randn(3, 16)).shape == (3, 8)
    with pytest.raises(NotImplementedError, match="a graph can hold a TimestepPolicyConfig, not the code of Mine"):
        torch.jit.trace(layer, torch.randn(3, 16))


def test_transforms_and_forward_mode_equal_those_of_the_dequantized_weight():
    layer, x = made(), torch.randn(3, 64)
    weight = layer.dequantized()
    assert torch.equal(torch.func.vmap(layer, in_dims=1)(x[:, None].expand(3, 2, 64))[1], layer(x))
    torch.testing.assert_close(torch.func.grad(lambda x: layer(x).sum())(x), weight.sum(0).expand(3, 64))
    torch.testing.assert_close(torch.func.jacrev(layer)(x[0]), weight)
    torch.testing.assert_close(torch.func.jacfwd(layer)(x[0]), weight)
    with forward_ad.dual_level():
        y, tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x)))
    assert torch.equal(y, layer(x))
    torch.testing.assert_close(tangent, x @ weight.T)


def test_gradients_through_compile_and_checkpoints():
    layer, x = made(), torch.randn(3, 64)
    wanted = layer.dequantized().sum(0).expand(3, 64)
    for run in (torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager"),
                lambda x: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)):
        given = x.clone().requires_grad_()
        run(given).sum().backward()
        torch.testing.assert_close(given.grad, wanted)
    given, twin = x.clone().requires_grad_(), copy.deepcopy(layer)
    y = twin(given).sum()
    twin.weight_scale.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_a_profiler_sees_the_operator():
    layer = made()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(torch.randn(3, 64))
    assert any(event.key == "aerogel::linear" for event in profile.key_averages())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_its_dtype(dtype):
    linear, x = nn.Linear(64, 24), torch.randn(3, 64)
    layer = aerogel.QuantizedLinear.from_linear(linear)
    with torch.autocast("cpu", dtype=dtype):
        for given in (x, x.bfloat16(), x.half()):
            assert layer(given).dtype == linear(given).dtype == torch.get_autocast_dtype("cpu")
        assert torch.equal(layer(x), layer(x.to(dtype)))
        given = x.clone().requires_grad_()
        layer(given).sum().backward()
        assert given.grad.dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert layer(x).dtype == torch.float32
    assert layer(x).dtype == torch.float32
