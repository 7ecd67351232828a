"""W4A4_STATIC: int4 weights, int4 activations with one calibrated scale, against NumPy; and the same weights with 8-bit activations."""
import subprocess

import numpy as np
import pytest
import torch
from format_reference import raw, write_pair, write_stats
from safetensors.torch import load_file, save_file
from small_formats import integers
from small_model import LAYERS

F32 = np.float32
N, K = 24, 192


def static(q, w_scale, bias, scale, offset):
    deq = (F32(scale) * w_scale).astype(F32).reshape(-1)
    return deq, np.rint(bias / deq - F32(offset) * q.astype(F32).sum(1)).astype(np.int32)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs(build, tmp_path, smoothed, dtype):
    rng = np.random.default_rng(2)
    q, w_scale, bias = rng.integers(-8, 8, (N, K)), (rng.random((N, 1)) + 0.5).astype(F32) / 64, rng.standard_normal(N).astype(F32)
    scale, offset = F32(0.37), F32(-3)
    deq, quant_bias = static(q, w_scale, bias, scale, offset)
    mul = np.exp2(rng.integers(-2, 3, K)).astype(F32) if smoothed else np.ones(K, F32)
    x = torch.from_numpy((rng.standard_normal((3, 17, K)) * 3).astype(F32)).to(dtype)
    x[0, 0, :4] = torch.tensor([float("inf"), -float("inf"), 1e30, -1e30])
    prefix = "net.fc.linear" if smoothed else "net.fc"
    tensors = {"weight": q.astype(np.int8), "weight_scale": w_scale, "bias": bias, "input_scale": np.array([scale]), "input_offset": np.array([offset]),
               "quant_bias": quant_bias, "deq_scale": deq}
    tensors = {f"{prefix}.{k}": torch.from_numpy(v) for k, v in tensors.items()}
    if smoothed:
        tensors["net.fc.div.mul_scale"] = torch.from_numpy(mul)
    types = {k: "FLOAT" if k.endswith(("bias", "mul_scale")) and not k.endswith("quant_bias") else "W4A4_STATIC" for k in tensors}
    path = write_pair(tmp_path, "W4A4_STATIC", tensors, types)
    save_file({"x": x}, tmp_path / "x")
    done = subprocess.run(list(map(str, [build / "tests/quantized_linear_run", path, "net.fc", tmp_path / "x", tmp_path / "y"])), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = (x.float().numpy() * mul).reshape(-1, K)
    x_q = np.clip(np.rint(values / scale + offset), -8, 7).astype(np.int64)
    assert (x_q == -8).any() and (x_q == 7).any()
    wanted = (x_q @ q.T + quant_bias).astype(F32) * deq
    y = load_file(tmp_path / "y")["y"].reshape(-1, N)
    assert torch.equal(y, torch.from_numpy(wanted).to(dtype))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_export(aerogel, float_model, tmp_path, dtype):
    """All roundings in the model's type, as in W8A8."""
    folder, state = float_model(dtype)
    stats = write_stats(tmp_path / "s", LAYERS, 2)
    done = aerogel("quantize", folder, "-o", tmp_path / "q", "--scheme", "W4A4_STATIC", "--layout", "v0", "--calibration", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    tensors = load_file(tmp_path / "q/quant_model_weight_w4a4_static.safetensors")
    for layer in LAYERS:
        w, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        q, w_scale, _ = integers(w, 4)
        count = stats[f"{layer}.forwards"].sum().double()
        low = (stats[f"{layer}.min_sum"].sum() / count).float().to(w.dtype).clamp(max=0)
        high = (stats[f"{layer}.max_sum"].sum() / count).float().to(w.dtype).clamp(min=0)
        scale = (high / 15 - low / 15).clamp(min=2.0**-23)
        offset = (torch.round(-low / scale) - 8).clamp(-8, 7)
        deq = (scale * w_scale).flatten().float()
        quant_bias = torch.round(bias.float() / deq - offset.float() * q.float().sum(1)).to(torch.int32)
        wanted = {"weight": q, "weight_scale": w_scale, "input_scale": scale.reshape(1), "input_offset": offset.reshape(1), "quant_bias": quant_bias}
        for name, value in wanted.items():
            assert raw(tensors[f"{layer}.{name}"]) == raw(value), (layer, name)


def test_policy_widens_activations(aerogel, build, float_model, tmp_path):
    """W4A8 on the same weights is the scheme W4A8, without the static scales."""
    folder, state = float_model("f32")
    write_stats(tmp_path / "s", LAYERS, 2)
    assert aerogel("quantize", folder, "-o", tmp_path / "a", "--scheme", "W4A4_STATIC", "--calibration", tmp_path / "s").returncode == 0
    assert aerogel("quantize", folder, "-o", tmp_path / "b", "--scheme", "W4A8", "--group-size", 0).returncode == 0
    x = torch.randn(5, state[f"{LAYERS[0]}.weight"].shape[1], generator=torch.Generator().manual_seed(1))
    save_file({"x": x}, tmp_path / "x")
    def run(pair, *step):
        command = [build / "tests/quantized_linear_run", tmp_path / pair, LAYERS[0], tmp_path / "x", tmp_path / "y", *step]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / "y")["y"]
    assert torch.equal(run("a", 0, 0, "wide"), run("b")) and not torch.equal(run("a"), run("b"))
