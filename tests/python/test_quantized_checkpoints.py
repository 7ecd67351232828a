"""ComfyUI's checkpoints in PyTorch: read under either kind of names, written, and the same as the scheme in memory. GPTQ's in act order."""
import copy
import json
import sys

import aerogel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path[:0] = [__file__.rsplit("/", 2)[0] + folder for folder in ("/model", "/quant")]
from test_comfy import int8, mark  # noqa: E402
from test_gguf import z_image  # noqa: E402
from test_packed_files import K, N, gptq, quantized as integers  # noqa: E402


def run(model):
    generator = torch.Generator().manual_seed(2)
    x = [torch.randn(4, 1, 8, 8, generator=generator)]
    with torch.no_grad():
        return model(x, torch.tensor([0.5]), [torch.randn(9, 32, generator=generator)], return_dict=False)[0][0]


def quantized(state):
    tensors = {}
    for name, tensor in state.items():
        if name.startswith("layers.") and tensor.ndim == 2 and tensor.shape[1] % 64 == 0 and "adaLN" not in name:
            parts = int8(tensor.numpy(), 64) | {"comfy_quant": mark(format="int8_tensorwise", convrot=True, convrot_groupsize=64)}
            tensors |= {f"{name.removesuffix('.weight')}.{part}": value for part, value in parts.items()}
        else:
            tensors[name] = tensor.clone().contiguous()
    return tensors


def test_read(tmp_path):
    model, original, _ = z_image()
    exact = run(model.eval())
    save_file(quantized(model.state_dict()), tmp_path / "ours.safetensors")
    save_file({f"model.diffusion_model.{k}": v for k, v in quantized(original).items()}, tmp_path / "theirs.safetensors")
    outputs = []
    for name in ("ours", "theirs"):
        other = z_image()[0].eval()
        for parameter in other.parameters():
            parameter.data.zero_()
        report = aerogel.quantize(other, tmp_path / f"{name}.safetensors")
        assert {layer.scheme for layer in report.layers if layer.name.startswith("layers.0.attention.")} == {"W8A8_DYNAMIC_CONVROT"}
        assert {layer.scheme for layer in report.layers if not layer.name.startswith("layers.")} == {"FLOAT"}
        outputs.append(run(other))
    assert torch.equal(*outputs)
    assert 0 < (outputs[0] - exact).norm() < 0.1 * exact.norm()

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "float.safetensors")
    with pytest.raises(ValueError, match="is no quantized checkpoint"):
        aerogel.quantize(model, tmp_path / "float.safetensors")
    partial = load_file(tmp_path / "ours.safetensors")
    del partial["x_pad_token"]
    save_file(partial, tmp_path / "partial.safetensors")
    with pytest.raises(ValueError, match="missing tensors: x_pad_token"):
        aerogel.quantize(model, tmp_path / "partial.safetensors")
    pad = model.state_dict()["x_pad_token"]
    for value, words in ((pad.to(torch.float8_e4m3fn), "must be f32, f16 or bf16: x_pad_token is f8_e4m3"),
                         (pad.to(torch.int8), "must be f32, f16 or bf16: x_pad_token is i8"), (pad * torch.nan, "x_pad_token is not finite")):
        save_file(partial | {"x_pad_token": value}, tmp_path / "partial.safetensors")
        with pytest.raises(ValueError, match=words):
            aerogel.quantize(model, tmp_path / "partial.safetensors")


def test_written_and_in_memory(tmp_path):
    model = z_image()[0].eval()
    include = "layers.*.attention.*"
    report = aerogel.export(model, tmp_path / "q.safetensors", "W8A8_DYNAMIC", layout="comfy", rotate="convrot", include=include, progress=False)
    assert report.description == "" and report.scheme == "W8A8_DYNAMIC_CONVROT" and "q.safetensors" in str(report)
    outputs = []
    for how in ({"quant_des_path": tmp_path / "q.safetensors"}, {"scheme": "W8A8_DYNAMIC_CONVROT", "include": include}):
        other = z_image()[0].eval()
        aerogel.quantize(other, **how)
        outputs.append(run(other))
        state = other.state_dict()
        again = z_image()[0].eval()
        aerogel.quantize(again, **how)
        again.load_state_dict(state)
        assert torch.equal(run(again), outputs[-1])
    assert torch.equal(*outputs)


def test_gptq_in_act_order(tmp_path):
    """Columns of a group that lie anywhere: forward, gradient, state dict and copies are those of the weight in its own order."""
    codes, zeros, scales = integers(4, 32, False)
    g_idx = np.random.default_rng(3).permutation(K) // 32
    weight = torch.from_numpy((codes - zeros[:, g_idx]) * scales[:, g_idx].astype(np.float64)).float()
    save_file({f"fc.{name}": tensor for name, tensor in gptq(codes, zeros, scales, 4, g_idx).items()}, tmp_path / "model.safetensors")
    (tmp_path / "quantization_config.json").write_text(json.dumps({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}))
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(K, N, bias=False)})
    aerogel.quantize(model, tmp_path / "model.safetensors")
    layer, x = model["fc"], torch.randn(5, K, requires_grad=True)
    assert layer.column_order.dtype == torch.int32 and layer.group_size == 32
    assert torch.equal(layer.dequantized(), weight)
    y = layer(x)
    assert (y - x @ weight.T).norm() < 1e-5 * y.norm()
    y.sum().backward()
    assert (x.grad - weight.sum(0)).norm() < 1e-5 * x.grad.norm()
    again = aerogel.QuantizedLinear.from_arrays("W4A16", K, layer.state_dict())
    for other in (again, copy.deepcopy(layer), torch.compile(layer, backend="eager")):
        assert torch.equal(other(x), y)
    state = dict(layer.state_dict(), column_order=torch.zeros(K, dtype=torch.int32))
    with pytest.raises(RuntimeError, match="column_order must hold each of 256 columns once, got 0 at element 1"):
        layer.load_state_dict(state)
