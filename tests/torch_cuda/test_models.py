"""Whole models of diffusers on CUDA tensors: sparse attention, plans, device maps, offloading, torch.compile, mindiesd."""
import copy
import gc

import aerogel
import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook, dispatch_model
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from aerogel import AerogelConfig, QuantizedLinear, _packed, enable_sparse_attention
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import nn

GRID = (7, 10, 8)  # of tokens: 35 blocks of 16
FEW = (2, 3, 4)
QUANTIZED = {"scheme": "W8A8_DYNAMIC", "include": "blocks.*"}


def wan(seed=3):
    torch.manual_seed(seed)
    return WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=4, out_channels=4, text_dim=24, freq_dim=32, ffn_dim=96, num_layers=2,
                                 cross_attn_norm=True, rope_max_seq_len=32, num_attention_heads=2, attention_head_dim=32).eval()


def inputs(device, grid):
    torch.manual_seed(5)
    frames, height, width = grid
    given = {"hidden_states": torch.randn(1, 4, frames, 2 * height, 2 * width), "encoder_hidden_states": torch.randn(1, 6, 24),
             "timestep": torch.tensor([500])}
    return {name: t.to(device) for name, t in given.items()} | {"return_dict": False}


@torch.no_grad()
def run(model, device="cpu", grid=FEW):
    return model(**inputs(device, grid))[0]


def close(got, want, bound=1e-3, device="cuda"):
    assert got.device.type == device and got.shape == want.shape
    error = (got.cpu() - want.cpu()).norm() / want.cpu().norm()
    assert error <= bound, float(error)


@pytest.fixture(scope="module")
def quantized():
    model = wan()
    aerogel.quantize(model, **QUANTIZED)
    return model, run(model)


@pytest.mark.parametrize("kind", ["rf_v1", "rf_v2", "rf_v3", "ada_bsa"])
def test_sparse_attention(kind, tmp_path, monkeypatch):
    q, k, v = (torch.randn(1, 2, 560, 32) for _ in range(3))
    options = {"sparse_type": kind, "sparsity": 0.5, "block_size": 16, "return_report": True}
    options |= {"keep_recent": False} if kind == "ada_bsa" else {"latent_shape_q": GRID}
    want, report = aerogel.sparse_attention(q, k, v, **options)
    got, there = aerogel.sparse_attention(*(t.to("cuda") for t in (q, k, v)), **options)
    close(got, want)
    assert there["density"] == report["density"] < 1
    monkeypatch.setenv("AEROGEL_FAKE_REPORT", str(tmp_path / "launches"))
    halves = [t.half() for t in (q, k, v)]
    got, _ = aerogel.sparse_attention(*(t.to("cuda") for t in halves), **options)
    torch.cuda.synchronize()
    monkeypatch.delenv("AEROGEL_FAKE_REPORT")
    close(got.float(), aerogel.sparse_attention(*halves, **options)[0].float(), 5e-3)
    if (tmp_path / "launches").exists():  # of the fake GPU
        launches = (tmp_path / "launches").read_text()
        assert "f32" not in launches and "f16_" in launches
    assert report["attention_seconds"] > 0 and there["attention_seconds"] is there["predict_seconds"] is None
    if kind == "rf_v2":
        for precision in ("int8", "int8_qk", "none"):  # as float32 of the same numbers
            both = [aerogel.sparse_attention(*(t.to("cuda", dtype) for t in halves), precision=precision, **options)[0].float()
                    for dtype in (torch.float16, torch.float32)]
            close(*both)
            close(both[0], aerogel.sparse_attention(*halves, precision=precision, **options)[0].float(), 2e-2)  # a CPU may have 7 bits for weights
        o, mask = aerogel.sparse_attention(*(t.to("cuda") for t in (q, k, v)), return_mask=True, **options | {"return_report": False})
        assert mask.is_cuda
        for given in (mask, mask.bool(), mask.cpu(), mask.float().log()):
            close(aerogel.sparse_attention(*(t.to("cuda") for t in (q, k, v)), cached_mask=given, **options)[0], o)
    if kind == "rf_v3":
        close(aerogel.sparse_attention(*(t.to("cuda") for t in (q, k, v)), precision="fp8", **options)[0],
              aerogel.sparse_attention(q, k, v, precision="fp8", **options)[0], 2e-2)


def test_a_plan_of_sparse_attention_and_quantized_layers(quantized):
    model = copy.deepcopy(quantized[0])
    plan = enable_sparse_attention(model, sparse_type="rf_v2", sparsity=0.5, block_size=16)
    want, here = run(model, grid=GRID), str(plan.report)
    model.to("cuda")
    close(run(model, "cuda", GRID), want, 5e-3)
    assert "2 of 2 attention calls sparse" in here and "4 of 4 attention calls sparse" in str(plan.report)
    plan.disable()
    close(run(model, "cuda"), quantized[1])


def test_attention_formats_of_a_model():
    model = wan()
    config = aerogel.OnlineQuantConfig("W8A16", fa_layers="blocks.*.attn1", fa_quant_type="FP8_DYNAMIC")
    aerogel.quantize(model, online_config=config)
    want = run(model)
    close(run(model.to("cuda"), "cuda"), want, 1e-3)
    model = wan().to("cuda")
    aerogel.quantize(model, online_config=config)
    close(run(model, "cuda"), want, 1e-3)


def test_device_maps(quantized, tmp_path):
    model, want = quantized
    model.save_pretrained(tmp_path / "quantized")
    wan().save_pretrained(tmp_path / "float")
    for path, more in (("quantized", {}), ("float", {"quantization_config": AerogelConfig("W8A8_DYNAMIC", include="blocks.*")})):
        loaded = WanTransformer3DModel.from_pretrained(tmp_path / path, device_map="cuda", **more)
        close(run(loaded, "cuda"), want)
        loaded.save_pretrained(tmp_path / "again")
        file = "diffusion_pytorch_model.safetensors"
        saved, before = load_file(tmp_path / "again" / file), load_file(tmp_path / "quantized" / file)
        assert saved.keys() == before.keys() and all(torch.equal(saved[name], before[name]) for name in saved)
    blocks = {"": 0, "blocks.1": "cpu"}
    with pytest.raises(NotImplementedError, match="layers run on the CPU or on NVIDIA GPUs, got disk in device_map"):
        WanTransformer3DModel.from_pretrained(tmp_path / "quantized", device_map=blocks | {"blocks.0": "disk"}, offload_folder=str(tmp_path))


def test_a_model_some_of_whose_layers_are_on_the_cpu(quantized):
    model, want = copy.deepcopy(quantized[0]), quantized[1]
    model.to("cuda").blocks[1].to("cpu")
    hook = AlignDevicesHook(execution_device="cpu", io_same_device=True)
    add_hook_to_module(model.blocks[1], hook)
    close(run(model, "cuda"), want)
    names = [name for name, _ in model.named_children()]
    other = torch.cuda.device_count() - 1
    places = {name: 0 for name in names if name != "blocks"} | {"scale_shift_table": 0, "blocks.0": other, "blocks.1": "cpu"}
    model = dispatch_model(copy.deepcopy(quantized[0]), places, main_device=0, force_hooks=True)
    close(run(model, "cuda"), want)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    assert {name.split(".")[1]: str(layer._place) for name, layer in layers.items()} == {"0": f"cuda:{other}", "1": "cuda:0"}  # what accelerate makes of "cpu"
    assert all(array.device.type == "cpu" for layer in layers.values() for array in layer.buffers())


def held(cuda):
    gc.collect()  # models with hooks refer to themselves: those of tests before would go in the middle of this one
    return sum(size for _, _, size in cuda.memory.lent.values())


def test_hooks_that_offload_whole_models(quantized, cuda, monkeypatch):
    """enable_model_cpu_offload: the model comes to the GPU for its forward, and goes when another one needs the place. It is packed once."""
    model, want = copy.deepcopy(quantized[0]), quantized[1]
    before = held(cuda)
    model, hook = cpu_offload_with_hook(model, "cuda")
    for _ in range(2):
        close(run(model, "cuda"), want)
        assert held(cuda) > before + 30000
        hook.offload()
        assert held(cuda) == before
        monkeypatch.setattr(_packed, "_core", None)
    monkeypatch.undo()
    hook.remove()
    close(run(model), want, device="cpu")


def test_hooks_that_offload_parts(quantized, cuda, monkeypatch):
    """Sequential offloading copies what was packed at its first turn; weights that are exchanged meanwhile are packed anew."""
    model, want = copy.deepcopy(quantized[0]), quantized[1]
    model.enable_group_offload(onload_device=torch.device("cuda"), offload_device=torch.device("cpu"), offload_type="leaf_level")
    for _ in range(2):
        close(run(model, "cuda"), want)
    before = held(cuda)
    model = cpu_offload(copy.deepcopy(quantized[0]), "cuda", offload_buffers=True)  # enable_sequential_cpu_offload
    for _ in range(3):
        close(run(model, "cuda"), want)
        assert held(cuda) < before + 10000
        monkeypatch.setattr(_packed, "_core", None)
    monkeypatch.undo()
    other = wan(seed=4)
    aerogel.quantize(other, **QUANTIZED)
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            for key, array in other.get_submodule(name).state_dict().items():
                layer._hf_hook.weights_map[key].copy_(array)
    mixed = copy.deepcopy(quantized[0])
    mixed.load_state_dict({key: value for key, value in other.state_dict().items() if isinstance(mixed.get_submodule(key.rpartition(".")[0]), QuantizedLinear)}, strict=False)
    close(run(model, "cuda"), run(mixed))
    assert held(cuda) < before + 10000


def test_compiled_models_keep_their_layers_in_one_graph(quantized, cuda):
    model, want = copy.deepcopy(quantized[0]).to("cuda"), quantized[1]
    run(model, "cuda")
    graphs = []

    def backend(module, examples):
        graphs.append([node.target for node in module.graph.nodes])
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(module, examples)

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    close(run(compiled, "cuda"), want)
    assert len(graphs) == 1 and sum("aerogel" in str(t) for t in graphs[0]) >= 20
    other = wan(seed=4)
    aerogel.quantize(other, **QUANTIZED)
    model.load_state_dict(other.state_dict())  # makes new forms, which the graph takes
    close(run(compiled, "cuda"), run(other))
    assert len(graphs) == 1


def test_graphs_have_nothing_of_the_cpu():
    """CUDA graphs of torch.compile ("reduce-overhead") take no tensor of the CPU."""
    layer = QuantizedLinear.from_linear(nn.Linear(32, 16), "W8A16").to("cuda")
    devices = []

    def backend(module, examples):
        devices.extend(t.device.type for t in examples if isinstance(t, torch.Tensor))
        return module

    x = torch.randn(2, 32)
    with torch.no_grad():
        y = torch.compile(layer, backend=backend)(x.to("cuda"))
    assert set(devices) == {"cuda"}
    close(y, layer.to("cpu")(x))


def test_a_graph_tells_that_arrays_were_written_to():
    layer, x = QuantizedLinear.from_linear(nn.Linear(32, 16), "W8A16").to("cuda"), torch.randn(2, 32).to("cuda")
    with torch.no_grad():
        compiled = torch.compile(layer, backend="eager")
        before = compiled(x)
        dict(layer.named_buffers())["weight_scale"].mul_(2)
        with pytest.raises(ValueError, match="was written to: call the layer once outside of the graph"):
            compiled(x)
        after = layer(x)
        assert not torch.equal(after.cpu(), before.cpu()) and torch.equal(compiled(x).cpu(), after.cpu())


def test_mindiesd_on_the_gpu():
    import mindiesd

    q, k, v = (torch.randn(1, 40, 2, 32) for _ in range(3))
    close(mindiesd.attention_forward(*(t.to("cuda") for t in (q, k, v))), mindiesd.attention_forward(q, k, v))
    model, there = wan(), wan().to("cuda")
    for each in (model, there):
        mindiesd.quantize(each, online_config=mindiesd.OnlineQuantConfig("W8A8_DYNAMIC"))
    close(run(there, "cuda"), run(model), 5e-3)
