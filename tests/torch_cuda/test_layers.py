"""Quantized Linear layers on CUDA tensors: the numbers of the CPU, where arrays lie, and what moves them."""
import copy
import io
from types import SimpleNamespace

import aerogel
import pytest
import torch
from aerogel import _packed
from aerogel.linear import multiply
from torch import nn

SCHEMES = [name for name, _, needs_data in aerogel.schemes() if not needs_data]
INTEGERS = {"W8A8_DYNAMIC", "W4A8", "W4A4_DYNAMIC"}  # bit for bit those of the CPU


def made(scheme="W8A8_DYNAMIC", n=40, k=96, **more):
    return aerogel.QuantizedLinear.from_linear(nn.Linear(k, n), scheme, **more)


def close(got, want, bound=1e-6):
    assert got.is_cuda and got.dtype == want.dtype and got.shape == want.shape
    error = (got.cpu().double() - want.double()).norm() / want.double().norm()
    assert error <= bound, float(error)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_layer_computes_there_what_it_computes_here(scheme):
    layer, x = made(scheme), torch.randn(2, 3, 96)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)):
        want = layer.to("cpu")(x.to(dtype))
        got = layer.to("cuda")(x.to("cuda", dtype))
        close(got, want, bound)
        if scheme in INTEGERS:
            assert torch.equal(got.cpu(), want)
    assert torch.equal(layer.to("cpu")(x), layer.to(torch.float16)(x))


def test_shapes_and_strides_of_x():
    layer = made()
    x = torch.randn(4, 6, 96)
    want, there = layer(x), x.to("cuda")
    layer.to("cuda")
    assert torch.equal(layer(there[2, 3]).cpu(), want[2, 3])
    assert torch.equal(layer(there[:, 1]).cpu(), want[:, 1])  # rows with gaps
    assert torch.equal(layer(there.transpose(0, 1)).cpu(), want.transpose(0, 1))
    assert layer(there[:0]).shape == (0, 6, 40)


def test_a_model_on_the_gpu_is_quantized_where_it_is():
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2)])})
    x, reference = torch.randn(5, 32), copy.deepcopy(model)
    aerogel.quantize(reference, scheme="W8A16")
    model.to("cuda")
    report = aerogel.quantize(model, scheme="W8A16")
    assert len(report.layers) == 4
    for block, other in zip(model["blocks"], reference["blocks"]):
        close(block(x.to("cuda")), other(x))


def test_arrays_stay_in_host_memory_and_files_are_the_same(monkeypatch):
    layer, other = made("W8A16"), made("W8A16")
    before = {name: array.clone() for name, array in layer.state_dict().items()}
    layer.to("cuda")
    state = layer.state_dict()
    assert list(state) == list(before) and all(a.device.type == "cpu" and torch.equal(a, before[n]) for n, a in state.items())
    assert layer.weight.is_cuda and torch.equal(layer.weight.cpu(), before["weight"]) and layer.bias.is_cuda
    x = torch.randn(3, 96).to("cuda")
    other.to("cuda")
    other.load_state_dict({name: array.to("cuda") for name, array in state.items()})
    assert torch.equal(other(x).cpu(), layer(x).cpu())
    layer.load_state_dict(made("W8A16").state_dict())  # which the packed form follows
    assert not torch.equal(other(x).cpu(), layer(x).cpu())
    file = io.BytesIO()
    torch.save(other, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(x).cpu(), other(x).cpu()) and torch.equal(copy.deepcopy(other)(x).cpu(), other(x).cpu())
    old = {name: value for name, value in other.__getstate__().items() if name not in ("_now", "_ticket", "_own", "_place", "_check_file")} | {"_own": 3}
    older = aerogel.QuantizedLinear.__new__(aerogel.QuantizedLinear)
    older.__setstate__(old)  # as files have it that were saved before layers went to GPUs
    here = x.cpu().requires_grad_()
    assert torch.equal(older(here), copy.deepcopy(other).to("cpu")(here))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # a machine without a GPU loads it
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x.cpu()), older(x.cpu()))


@pytest.fixture
def copies(cuda, monkeypatch):
    """The copies of torch from and to the GPU, as they are made. Conversions are among them (fake_cuda.py)."""
    made, call = [], cuda._call

    def counted(name, *args, **more):
        if name.startswith("cuMemcpy"):
            made.append(name)
        return call(name, *args, **more)

    monkeypatch.setattr(cuda, "_call", counted)
    return made


def test_a_look_at_an_array_copies_nothing(cuda, copies):
    """Models ask for the type and the device of a weight at every call. Numbers are sent to who asks for them, once."""
    layer = made("W8A16").to("cuda")
    copies.clear()
    before = cuda.memory.allocations
    for array, shape, dtype in ((layer.weight, (40, 96), torch.int8), (layer.bias, (40,), torch.float32)):
        assert isinstance(array, torch.Tensor) and array.is_cuda and array.device == torch.device("cuda:0")
        assert array.shape == shape and array.dtype == dtype and array.is_contiguous() and not array.requires_grad
    assert copies == [] and cuda.memory.allocations == before
    weight, stored = layer.weight, layer.state_dict()["weight"]
    for _ in range(2):
        assert torch.equal(weight.cpu(), stored) and type(weight.cpu()) is torch.Tensor
    assert copies.count("cuMemcpyHtoDAsync_v2") == 1
    assert torch.equal((weight.float() + 1).cpu(), stored.float() + 1) and weight[3:].data_ptr() == weight.data_ptr() + 3 * 96
    weight.zero_()
    assert not weight.cpu().any() and torch.equal(layer.weight.cpu(), stored)  # a copy was written to
    assert torch.equal(copy.deepcopy(layer.weight).cpu(), stored) and "device='cuda:0'" in repr(layer.weight)


def test_act_order_on_the_way():
    """Columns of x are put in order while they are quantized, with the bits of the CPU."""
    order = torch.randperm(96, dtype=torch.int32)
    for scheme, group in (("W8A8_DYNAMIC", 0), ("W4A8", 32), ("W4A16", 32)):
        state = made(scheme, group_size=group).state_dict()
        layer = aerogel.QuantizedLinear.from_arrays(scheme, 96, dict(state, column_order=order), group_size=group)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.randn(5, 96, dtype=dtype)
            want = layer.to("cpu")(x)
            got = layer.to("cuda")(x.to("cuda"))
            close(got, want, 1e-6 if dtype == torch.float32 else 4e-3)
            assert torch.equal(got.cpu(), want) or scheme not in INTEGERS
        assert not torch.equal(layer(x.to("cuda")).cpu(), aerogel.QuantizedLinear.from_arrays(scheme, 96, state, group_size=group)(x))


@pytest.mark.parametrize("ordered", [False, True])
def test_the_types_of_x_go_to_the_kernel_as_they_are(ordered, copies):
    state = made("W8A8_DYNAMIC").state_dict() | ({"column_order": torch.randperm(96, dtype=torch.int32)} if ordered else {})
    layer = aerogel.QuantizedLinear.from_arrays("W8A8_DYNAMIC", 96, state).to("cuda")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(5, 96).to("cuda", dtype)
        copies.clear()
        y = layer(x)
        assert copies == [] and y.dtype == dtype
        x.float()
        assert copies or dtype == torch.float32  # a conversion would be seen


def held(cuda):
    return sum(size for _, _, size in cuda.memory.lent.values())


def test_one_form_of_the_weight_is_there_and_goes_with_the_layer(cuda):
    before, layer = held(cuda), made("W8A8_DYNAMIC", 256, 512)
    layer.to("cuda")
    one = held(cuda) - before
    assert 256 * 512 <= one < 1.2 * 256 * 512
    layer.to("cuda").to(torch.bfloat16).to("cuda")
    assert held(cuda) - before == one
    layer.to("cpu")
    assert held(cuda) == before
    layer.to("cuda:1")
    assert held(cuda) - before == one and layer(torch.randn(2, 512).to("cuda:1")).device == torch.device("cuda:1")
    del layer
    assert held(cuda) == before


@pytest.fixture
def packings(monkeypatch):
    """The schemes that were packed for a GPU, as they are packed."""
    made, linear = [], _packed._core.Linear

    def on_gpu(index, scheme, *rest, **arrays):
        made.append(scheme)
        return linear.on_gpu(index, scheme, *rest, **arrays)

    monkeypatch.setattr(_packed, "_core", SimpleNamespace(Linear=SimpleNamespace(on_gpu=on_gpu, from_arrays=linear.from_arrays)))
    return made


@pytest.mark.parametrize("scheme", [*SCHEMES, "W4A4_MXFP4_SVD"])
def test_what_was_packed_waits_in_host_memory(scheme, cuda, packings):
    layer, x, before = made(scheme, 256, 512), torch.randn(3, 512), held(cuda)
    want, there = layer(x), x.to("cuda")
    before = held(cuda)
    got, one = layer.to("cuda")(there).cpu(), held(cuda)
    for _ in range(2):
        assert torch.equal(layer.to("cpu")(x), want) and held(cuda) == before  # it runs here, with a form of its own
        layer.to("cuda")
        assert held(cuda) == one and torch.equal(layer(there).cpu(), got)
    assert packings == [scheme]
    layer.to("cpu")._buffers["weight"].copy_(made(scheme, 256, 512)._buffers["weight"])
    want, got = layer(x), layer.to("cuda")(there)
    assert packings == [scheme, scheme] and (got.cpu() - want).norm() <= 1e-5 * want.norm()


def test_who_runs_a_layer_that_leaves_goes_on(cuda, packings):
    layer, x = made("W8A8_DYNAMIC", 256, 512), torch.randn(3, 512)
    want, there, before = layer(x), x.to("cuda"), held(cuda)
    form = layer.to("cuda").packed()
    layer.to("cpu")
    assert torch.equal(multiply(form, there, None).cpu(), want) and held(cuda) > before + 256 * 512
    del form
    assert held(cuda) <= before + want.nbytes
    other = copy.copy(layer)  # a layer of the same arrays, which stays
    layer.to("cuda"), other.to("cuda")
    layer.to("cpu")
    assert torch.equal(other(there).cpu(), want) and torch.equal(layer(x), want) and len(packings) == 1


def test_calls_go_to_the_stream_of_torch_and_nobody_waits(cuda, tmp_path, monkeypatch):
    """Work of the fake GPU is done when somebody waits for its stream, and is reported then."""
    layer, x, launches = made(), torch.randn(5, 96), tmp_path / "launches"
    want, there, stream = layer(x), x.to("cuda"), cuda.Stream.new()
    layer.to("cuda")
    layer(there)
    torch.cuda.synchronize()
    monkeypatch.setenv("AEROGEL_FAKE_REPORT", str(launches))
    with torch.cuda.stream(stream):
        y = layer(there)
        cuda.Stream(0).synchronize()
        assert not launches.exists()
        stream.synchronize()
        assert launches.exists()
        assert torch.equal(y.cpu(), want)
    # The form was made on another stream, which torch may not lend its memory to before this stream is done.
    address = next(a for a, used in cuda.memory.used_on.items() if stream.cuda_stream in used)
    assert cuda.memory.lent[address][1] == 0


def test_a_graph_is_captured_and_replayed(new_graph):
    x = torch.randn(5, 96)
    for scheme in (*SCHEMES, "W4A4_MXFP4_SVD"):
        layer = made(scheme).to("cuda")
        there, graph = x.to("cuda"), new_graph()
        layer(there)
        with graph.capture():
            y = layer(there)
        for seed in range(2):
            torch.manual_seed(seed)
            there.copy_(torch.randn(5, 96))
            torch.cuda.synchronize()
            graph.replay()
            assert torch.equal(y.cpu(), layer(there).cpu())


def test_gradients_flow_to_x():
    layer, x = made("W8A16"), torch.randn(3, 96)
    here = x.clone().requires_grad_()
    layer(here).square().sum().backward()
    there = x.to("cuda").requires_grad_()
    layer.to("cuda")(there).square().sum().backward()
    close(there.grad, here.grad, 1e-5)


def test_autocast_of_the_gpu():
    layer, x = made("W8A16"), torch.randn(3, 96)
    want = layer(x.bfloat16())
    with torch.autocast("cuda", torch.bfloat16):
        close(layer.to("cuda")(x.to("cuda")), want, 4e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x.to("cuda")).dtype == torch.float32


def test_what_does_not_go_together_is_refused():
    layer, x = made(), torch.randn(3, 96)
    with pytest.raises(ValueError, match=r"\[linear\] x must be on the CPU, got cuda:0"):
        layer(x.to("cuda"))
    layer.to("cuda")
    with pytest.raises(ValueError, match=r"\[linear\] x must be on cuda:0, got cpu"):
        layer(x)
    for gradients in (True, False):  # whoever watches
        with torch.set_grad_enabled(gradients), torch.profiler.profile(), pytest.raises(ValueError, match=r"\[linear\] x must be on cuda:0, got cpu"):
            layer(x.clone().requires_grad_())
    with pytest.raises(NotImplementedError, match="layers run on the CPU or on an NVIDIA GPU, not on meta"):
        layer.to("meta")
    assert layer(x.to("cuda")).is_cuda


def test_another_gpu(second):
    layer, x = made(), torch.randn(3, 96)
    want = layer(x)
    assert torch.equal(layer.to(second)(x.to(second)).cpu(), want)
    with pytest.raises(ValueError, match=r"\[linear\] x must be on cuda:1, got cuda:0"):
        layer(x.to("cuda:0"))


def test_memory_that_is_not_there_is_told_in_torchs_words(cuda, monkeypatch):
    take = cuda.memory.take

    def none(device, size):
        if size > 256:  # a little there is
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return take(device, size)

    layer, x_here = made(), torch.randn(3, 96)
    x = x_here.to("cuda")
    followed, want = copy.deepcopy(layer), layer(x_here)
    layer.to("cuda")
    monkeypatch.setattr(cuda.memory, "take", none)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        layer(x)
    other = made()
    want_other = other(x_here)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        other.to("cuda")
    assert other(torch.ones(1, 96)).device.type == "cpu"  # where it was
    monkeypatch.undo()
    assert layer(x).is_cuda and other.to("cuda")(x).is_cuda
    other.to("cpu")  # and comes back by a copy
    monkeypatch.setattr(cuda.memory, "take", none)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        other.to("cuda")
    monkeypatch.undo()
    assert torch.equal(other(x.cpu()), want_other) and torch.equal(other.to("cuda")(x).cpu(), want_other)
    for name, array in list(followed._buffers.items()):
        followed._buffers[name] = array.to("cuda")
    monkeypatch.setattr(cuda.memory, "take", none)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        followed(x)
    monkeypatch.undo()
    assert torch.equal(followed(x).cpu(), want)


def test_layers_of_arrays_there_and_matrices_of_layers():
    layer, x = made("W4A16"), torch.randn(3, 96)
    other = aerogel.QuantizedLinear.from_arrays("W4A16", 96, {n: a.to("cuda") for n, a in layer.state_dict().items()})
    close(other(x.to("cuda")), layer(x))
    assert other._buffers["weight"].device.type == "cpu" and torch.equal(other.dequantized().cpu(), layer.dequantized())


def test_calibrated_and_rotated_layers(tmp_path, new_graph):
    """Static and per step, with the arrays that they have from data; and a model that is measured, exported and tuned where it is."""
    model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2)])})
    model.forward = lambda x: model["blocks"][1](model["blocks"][0](x))
    x = torch.randn(5, 32)
    model.to("cuda")
    there = x.to("cuda")
    for scheme in ("W8A8", "W8A8_TIMESTEP"):
        aerogel.TimestepManager.set_timestep_idx(0)
        calibration = aerogel.calibrate(model, lambda m: m(there), scheme, steps=1)
        aerogel.export(model, tmp_path / scheme, scheme=scheme, calibration=calibration, progress=False)
        quantized, here = copy.deepcopy(model), copy.deepcopy(model).to("cpu")
        for each in (quantized, here):
            each.forward = lambda x, each=each: each["blocks"][1](each["blocks"][0](x))
            aerogel.quantize(each, tmp_path / scheme)
        close(quantized(there), here(x), 1e-5)
    aerogel.TimestepManager.set_timestep_idx(None)
    for rotate in (32, "convrot:16"):
        folder = tmp_path / f"rotated {str(rotate).replace(':', ' ')}"
        aerogel.export(model, folder, scheme="W8A8_DYNAMIC", rotate=rotate, low_rank=8, progress=False)
        quantized = copy.deepcopy(model)
        aerogel.quantize(quantized, folder)
        layer = quantized["blocks"][0][0]
        close(layer(there), copy.deepcopy(layer).to("cpu")(x), 1e-5)
        graph = new_graph()
        with graph.capture():
            y = layer(there)
        graph.replay()
        assert torch.equal(y.cpu(), layer(there).cpu())
    report = aerogel.tune(model, [{"x": there}], max_error=0.5, step_groups=1, schemes=["W4A16"])
    assert set(report.schemes.values()) == {"W4A16"}


def test_arrays_that_somebody_sets_one_by_one():
    """As accelerate does: each array for itself, without a word to the module."""
    layer, x = made("W8A8_DYNAMIC"), torch.randn(3, 96)
    want = layer(x)
    for name, array in list(layer._buffers.items()):
        layer._buffers[name] = array.to("cuda")
    assert torch.equal(layer(x.to("cuda")).cpu(), want)
    assert layer._buffers["weight"].device.type == "cpu"  # and no second copy on the GPU
    with pytest.raises(ValueError, match="x must be on cuda:0, got cpu"):
        layer(x)
    layer.to("cuda")
    assert torch.equal(layer(x.to("cuda")).cpu(), want) and torch.equal(layer.to("cpu")(x), want)


def test_arrays_whose_memory_is_exchanged(cuda):
    """As diffusers' group offloading does with the tensors that it found in the model: .data of each is on the GPU for a while."""
    layer, x = made("W8A8_DYNAMIC"), torch.randn(3, 96)
    want, before = layer(x), held(cuda)
    for _ in range(2):
        here = {array: array.data for array in layer.buffers()}
        for array in layer.buffers():
            array.data = array.data.to("cuda")
        assert torch.equal(layer(x.to("cuda")).cpu(), want)
        for array, data in here.items():
            array.data = data
        assert torch.equal(layer(x), want) and held(cuda) == before
