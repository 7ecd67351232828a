"""What users of nn.Module do to a quantized layer: state dicts, edits of its arrays, copies, dtypes, odd inputs."""
import copy
import io
import os
import pickle
import subprocess
import sys
import threading

import aerogel
import numpy as np
import pytest
import torch
from aerogel import TimestepPolicyConfig
from torch import nn

IN_MEMORY = [name for name, _, needs_data in aerogel.schemes() if not needs_data]
X = torch.randn(4, 64)


def made(scheme="W8A8_DYNAMIC", bias=True, group_size=0):
    return aerogel.QuantizedLinear.from_linear(nn.Linear(64, 24, bias=bias), scheme, group_size=group_size)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W4A16", "W8A8_MXFP8", "W4A4_MXFP4_DUALSCALE"])
def test_a_float_state_dict_is_quantized(scheme, dtype, assign):
    linear, model = nn.Linear(64, 24).to(dtype), nn.Sequential(made(scheme))
    model(X)
    model.load_state_dict({f"0.{n}": t for n, t in linear.state_dict().items()}, assign=assign)
    wanted = aerogel.QuantizedLinear.from_linear(linear.float() if dtype == torch.float64 else linear, scheme,
                                                         group_size=0)
    assert torch.equal(model(X), wanted(X))
    assert {n: t.dtype for n, t in model[0].state_dict().items()} == {n: t.dtype for n, t in wanted.state_dict().items()}


def changed(state, **arrays):
    return {n: t for n, t in {**state, **arrays}.items() if t is not None}


def nan(array):
    return torch.full_like(array, float("nan"))


FLOAT = nn.Linear(64, 24)
REFUSED = {
    "float weight of another shape": (lambda s: {"weight": torch.zeros(24, 32), "bias": s["bias"]}, r"weight must be float \[24, 64\]"),
    "float weight that is not finite": (lambda s: {"weight": nan(FLOAT.weight), "bias": s["bias"]}, "finite"),
    "float weight beside scales": (lambda s: changed(s, weight=FLOAT.weight), "comes alone or with a bias"),
    "arrays without their scale": (lambda s: changed(s, weight_scale=None), "weight_scale is missing"),
    "scale of another grouping": (lambda s: changed(s, weight_scale=torch.ones(24, 2)), r"weight_scale must be \[24, 1\], got \[24, 2\]"),
    "weight of another type": (lambda s: changed(s, weight=s["weight"].int()), "weight must be torch.int8, got torch.int32"),
    "scale of integers": (lambda s: changed(s, weight_scale=s["weight_scale"].int()), "weight_scale must be torch.float32"),
    "scale that is not finite": (lambda s: changed(s, weight_scale=nan(s["weight_scale"])), "weight_scale has the value"),
    "array of another way to quantize": (lambda s: changed(s, mul_scale=torch.ones(64)), "has no mul_scale"),
    "bias of another length": (lambda s: changed(s, bias=torch.ones(3)), r"bias must be \[24\]"),
    "arrays without values": (lambda s: {n: t.to("meta") for n, t in s.items()}, "must be a tensor on the CPU or a GPU, got meta"),
}


@pytest.mark.parametrize("strict, assign", [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_leaves_the_layer_as_it_was(what, strict, assign):
    state_of, why = REFUSED[what]
    model = nn.Sequential(made())
    before, arrays, y = copy.deepcopy(model.state_dict()), list(model.buffers()), model(X)
    state = {f"0.{n}": t for n, t in state_of(copy.deepcopy(model[0].state_dict())).items()}
    with pytest.raises(RuntimeError, match=f"0: .*{why}.*; this layer stays as it was"):
        model.load_state_dict(state, strict=strict, assign=assign)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items()) and torch.equal(model(X), y)
    assert all(a is b for a, b in zip(model.buffers(), arrays, strict=True))


def test_what_is_missing_or_too_much_is_named_as_by_any_module():
    layer, plain = made(), made(bias=False)
    y, z, bias = layer(X), plain(X), layer.bias.clone()
    with pytest.raises(RuntimeError, match='Missing key.*"weight", "weight_scale", "bias"'):
        layer.load_state_dict({})
    with pytest.raises(RuntimeError, match='Unexpected key.*"other"'):
        plain.load_state_dict({**plain.state_dict(), "other": torch.ones(1)})
    assert torch.equal(layer(X), y) and torch.equal(plain(X), z)
    with pytest.raises(RuntimeError, match='Missing key.*"bias"'):
        layer.load_state_dict({"weight": FLOAT.weight})
    with pytest.raises(RuntimeError, match='Unexpected key.*"bias"'):
        plain.load_state_dict(FLOAT.state_dict())
    wanted = aerogel.QuantizedLinear.from_linear(FLOAT)(X)
    torch.testing.assert_close(layer(X) - bias, wanted - FLOAT.bias)
    torch.testing.assert_close(plain(X), wanted - FLOAT.bias)
    layer.load_state_dict({"bias": torch.zeros(24, dtype=torch.float16)}, strict=False)
    assert torch.equal(layer(X), plain(X)) and layer.bias.dtype == torch.float32


def test_hooks_of_state_dicts_and_more_state_of_subclasses_work():
    class Scaled(aerogel.QuantizedLinear):
        def __init__(self, core):
            super().__init__(core)
            self.factor = nn.Parameter(torch.tensor(2.0))

    layer, other = Scaled.from_linear(FLOAT), Scaled.from_linear(nn.Linear(64, 24))
    other.register_load_state_dict_pre_hook(lambda module, state, prefix, *rest: state.update(weight=state.pop("renamed")))
    state = layer.state_dict()
    state["factor"], state["renamed"] = torch.tensor(5.0), state.pop("weight")
    other.load_state_dict(state)
    assert torch.equal(other(X), layer(X)) and other.factor == 5.0
    assert copy.deepcopy(other).factor == 5.0 and other.half().factor.dtype == torch.float16 and other.weight_scale.dtype == torch.float32


def test_writing_to_the_arrays_takes_effect():
    layer = made()
    y, bias = layer(X), layer.bias.clone()
    layer.weight_scale.mul_(2)
    torch.testing.assert_close(layer(X) - bias, 2 * (y - bias))
    with torch.no_grad():
        layer.bias.copy_(torch.zeros(24))
    torch.testing.assert_close(layer(X), 2 * (y - bias))
    torch.testing.assert_close(layer.dequantized(), layer.weight * layer.weight_scale)
    layer.weight.data = torch.zeros_like(layer.weight)
    assert not layer(X).any()
    layer.bias = torch.ones(24)
    assert (layer(X) == 1).all()
    layer.bias = None
    assert not layer(X).any() and layer.bias is None
    with torch.inference_mode():
        layer.weight.add_(1)
    assert layer(X).any()
    layer.weight_scale[0] = float("inf")
    with pytest.raises(ValueError, match="weight_scale has the value inf"):
        layer(X)
    layer.weight = FLOAT.weight
    with pytest.raises(ValueError, match="a layer needs its weight"):
        layer(X)


def test_arrays_of_files_can_be_written_to(tmp_path):
    model = nn.Sequential(nn.Linear(64, 24))
    aerogel.export(model, tmp_path, "W8A8_DYNAMIC", include=["*"])
    stored = {f: f.read_bytes() for f in tmp_path.iterdir()}
    aerogel.quantize(model, next(tmp_path.glob("*.json")))
    model(X)
    model[0].weight.zero_()
    assert torch.equal(model(X), model[0].bias.expand(4, 24))
    model.load_state_dict({f"0.{n}": t for n, t in made().state_dict().items()})
    assert {f: f.read_bytes() for f in tmp_path.iterdir()} == stored


def pickled(layer):
    return pickle.loads(pickle.dumps(layer))


def saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class Tagged(aerogel.QuantizedLinear):
    pass


def negate(module, args, output):
    return -output


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickled, saved])
def test_copies_are_those_of_any_module(copied):
    layer = Tagged.from_linear(FLOAT)
    layer.tag, layer.timestep_policy = [1], TimestepPolicyConfig("static").register(3, "dynamic", "linear")
    layer.register_forward_hook(negate)
    layer.eval()
    y, twin = layer(X), copied(layer)
    assert type(twin) is Tagged and twin.tag == [1] and not twin.training and twin.timestep_policy == layer.timestep_policy
    assert torch.equal(twin(X), y) and torch.equal(y, -layer.forward(X))
    if copied is not copy.copy:
        twin.weight_scale.mul_(2)
        assert not torch.equal(twin(X), y) and torch.equal(layer(X), y)


def test_memory_is_shared_and_types_stay():
    layer = made("WFP8AFP8_DYNAMIC")
    y = layer(X)
    assert torch.equal(layer.share_memory()(X), y) and layer.weight.is_shared() and layer.weight_scale.is_shared()
    for call in (lambda m: m.half(), lambda m: m.double(), lambda m: m.to(torch.bfloat16), lambda m: m.type(torch.float64), lambda m: m.float(),
                 lambda m: m.requires_grad_(), lambda m: m.to("cpu"), lambda m: m.train()):
        assert torch.equal(call(layer)(X), y) and layer.weight_scale.dtype == torch.float32
    for call in (lambda m: m.to("meta"), lambda m: m.to_empty(device="meta")):
        with pytest.raises(NotImplementedError, match="run on the CPU or on an NVIDIA GPU, not on meta"):
            call(layer)
    assert torch.equal(layer(X), y) and not list(layer.parameters())


def test_odd_inputs():
    layer = made()
    assert layer(torch.zeros(0, 64)).shape == (0, 24) and layer(torch.zeros(2, 0, 3, 64)).shape == (2, 0, 3, 24)
    assert torch.equal(layer(X[0].expand(2, 3, 5, 64)), layer(X[:1]).expand(2, 3, 5, 24))
    with pytest.raises(ValueError, match=r"x must have 64 columns, got \[\]"):
        layer(torch.tensor(1.0))
    for dtype in (torch.complex64, torch.int8, torch.float64, torch.bool):
        with pytest.raises(ValueError, match=f"x must be float32, bfloat16 or float16, got {dtype}"):
            layer(torch.zeros(3, 64, dtype=dtype))
    with pytest.raises(ValueError, match="x must be dense, got torch.sparse_coo"):
        layer(X.to_sparse())
    with pytest.raises(ValueError, match="x must be a torch tensor, got ndarray"):
        layer(np.zeros((3, 64), np.float32))


LARGE = """
import sys, torch, aerogel
from torch import nn
torch.manual_seed(0)
results, linear = {}, nn.Linear(64, 24)
for scheme in [name for name, _, needs_data in aerogel.schemes() if not needs_data]:
    layer = aerogel.QuantizedLinear.from_linear(linear, scheme)
    for value in (0.0, 1e-45, 1e-41, 1e-38, 1e30, 1e36, 1e37):
        results[scheme, value] = layer(torch.randn(4, 64).clamp(-1, 1) * value)
    one = torch.zeros(2, 64)
    one[0, 3], one[1, 5] = torch.finfo(torch.float32).max, -torch.finfo(torch.float32).max
    results[scheme, "largest"] = layer(one)
    results[scheme, "infinite"] = layer(torch.tensor([float("inf"), float("nan"), 1.0])[:, None].expand(3, 64))
torch.save(results, sys.argv[1])
"""


def large_results(path, **environment):
    run = subprocess.run([sys.executable, "-c", LARGE, path], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return torch.load(path)


def test_the_whole_range_of_float32_stays_finite(tmp_path):
    """Where nn.Linear is finite, so are the layers, by the kernels of this machine and by the reference; bits agree where sums are integers."""
    best, plain = large_results(tmp_path / "best.pt"), large_results(tmp_path / "plain.pt", AEROGEL_KERNEL="reference.linear")
    assert len(best) == 9 * len(IN_MEMORY)
    for (scheme, value), y in best.items():
        other = plain[scheme, value]
        if value == "infinite":
            assert not y[:2].isfinite().any() and y[2].isfinite().all() and torch.equal(y.isfinite(), other.isfinite())
            continue
        assert y.isfinite().all() and other.isfinite().all(), (scheme, value)
        if scheme in ("W8A8_DYNAMIC", "W4A8", "W4A4_DYNAMIC"):
            assert torch.equal(y, other), (scheme, value)
        else:
            torch.testing.assert_close(y, other, rtol=1e-5, atol=float(other.abs().max()) * 1e-5)


def test_arrays_tell_their_groups():
    linear = nn.Linear(128, 24)
    for scheme in ("W4A16", "W8A16", "W8A8_MXFP8"):
        layer = aerogel.QuantizedLinear.from_linear(linear, scheme)
        copy = aerogel.QuantizedLinear.from_arrays(scheme, 128, layer.state_dict())
        x = torch.randn(3, 128)
        assert torch.equal(copy(x), layer(x))


def test_arrays_exchanged_while_another_thread_computes():
    layer = aerogel.QuantizedLinear.from_linear(nn.Linear(1024, 1024), "W8A16")
    layer = aerogel.QuantizedLinear.from_arrays("W8A16", 1024, layer.state_dict())
    x = torch.randn(64, 1024)
    wanted, wrong, stop = layer(x), [], threading.Event()

    def exchange():
        while not stop.is_set():
            layer.load_state_dict({name: array.clone() for name, array in layer.state_dict().items()}, assign=True)
            [torch.full((1024, 1024), 7, dtype=torch.int8) for _ in range(3)]  # takes the freed memory

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for _ in range(60):
            if not torch.equal(layer(x), wanted):
                wrong.append(1)
    finally:
        stop.set()
        thread.join()
    assert not wrong
