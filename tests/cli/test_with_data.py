"""aerogel quantize with algorithms that look at recorded inputs: GPTQ, AWQ and smoothing, alone and together, against NumPy on the inputs
that --save-calibration keeps."""
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

LAYERS = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_k", "blocks.0.ffn.net.2"]
FLOOR = 2.0**-23


@pytest.fixture(scope="module")
def calibrated(aerogel, tiny_pipeline, tmp_path_factory):
    """A calibration file with inputs of two videos of three steps, and the model's weights."""
    folder = tmp_path_factory.mktemp("calibrated")
    (folder / "captions.txt").write_text("red circle moves left\nblue star turns\n")
    done = aerogel("quantize", tiny_pipeline, "-o", folder / "q", "--scheme", "W8A16", "--algorithm", "gptq", "--captions", folder / "captions.txt",
                   "--samples", 300, "--save-calibration", folder / "stats")
    assert done.returncode == 0, done.stderr
    assert "calibrated on 2 captions, 3 steps each" in done.stdout
    return folder / "stats", load_file(tiny_pipeline / "transformer/diffusion_pytorch_model.safetensors")


@pytest.fixture
def quantized(aerogel, tiny_pipeline, calibrated):
    """quantized(folder, scheme, ...) -> (report, tensors, description) of `aerogel quantize` from kept inputs."""
    def run(folder, *flags):
        done = aerogel("quantize", tiny_pipeline, "-o", folder, "--calibration", calibrated[0], "--json", "--scheme", *flags)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        return report, load_file(report["weights"]), json.loads(open(report["description"]).read())

    return run


@pytest.fixture
def plain(aerogel, tiny_pipeline, tmp_path):
    """plain(scheme, ...) -> the weights that minmax leaves."""
    def run(*flags):
        shutil.rmtree(tmp_path / "plain", ignore_errors=True)
        done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "plain", "--scheme", *flags)
        assert done.returncode == 0, done.stderr
        return restored(aerogel, tmp_path / "plain")

    return run


@pytest.fixture
def gptq(build, tmp_path):
    """gptq(weight, inputs, bits, group) -> what the library's function decodes to."""
    def run(weight, inputs, bits, group):
        save_file({"weight": weight, "x": inputs}, tmp_path / "in")
        call = [build / "tests/algorithm_run", f"inputs:gptq:int{bits}", tmp_path / "in", tmp_path / "out", group]
        subprocess.run(list(map(str, call)), check=True)
        return load_file(tmp_path / "out")["decoded"]

    return run


def restored(aerogel, folder):
    done = aerogel("dequantize", folder, "-o", folder / "f.safetensors")
    assert done.returncode == 0, done.stderr
    return load_file(folder / "f.safetensors")


def output_error(x, back, w):
    x, back, w = x.double().numpy(), back.double().numpy(), w.double().numpy()
    return np.linalg.norm(x @ (back - w).T) / np.linalg.norm(x @ w.T)


def test_kept_inputs(calibrated):
    """300 rows of each layer that had more, all of those that had fewer, with their steps."""
    stats = load_file(calibrated[0])
    for layer in LAYERS:
        rows, steps = stats[f"{layer}.inputs"], stats[f"{layer}.input_steps"]
        seen = {"blocks.1.attn2.to_k": 2 * 3 * 2 * 8}.get(layer, 2 * 3 * 2 * 256)
        assert rows.shape[0] == steps.shape[0] == min(seen, 300) and rows.dtype == torch.bfloat16
        assert set(steps.tolist()) == {0, 1, 2} and rows.float().abs().max() > 0
        assert rows.float().max() <= stats[f"{layer}.max_sum"].sum() and not torch.equal(rows[0], rows[1])


def test_gptq_is_that_of_the_library(aerogel, quantized, plain, gptq, calibrated):
    """The algorithm itself is tested in tests/quant/algorithms; here it must have had these inputs. Its outputs err less."""
    stats, state = calibrated
    inputs = load_file(stats)
    for scheme in ("W4A16", "W4A8", "W8A16"):
        report, _, _ = quantized(stats.parent / scheme, scheme, "--algorithm", "gptq", "--group-size", 32)
        assert report["algorithm"] == "gptq"
        best, worse = restored(aerogel, stats.parent / scheme), plain(scheme, "--group-size", 32)
        for layer in LAYERS:
            w, x = state[f"{layer}.weight"], inputs[f"{layer}.inputs"]
            wanted = gptq(w, x, scheme[1], 32)
            assert torch.equal(best[f"{layer}.weight"], wanted)
            assert output_error(x, wanted, w) < 0.95 * output_error(x, worse[f"{layer}.weight"], w)


def minmax_int8(w):
    scale = np.maximum(np.abs(w).max(1, keepdims=True) / np.float32(127), np.float32(FLOOR))
    return np.clip(np.rint(w / scale), -127, 127), scale


@pytest.mark.parametrize("rule", [("smoothquant", 0.5, 0.5), ("iter_smooth", 0.9, 0.1)])
def test_smoothing(aerogel, quantized, calibrated, tmp_path, rule):
    stats, state = calibrated
    name, alpha, beta = rule
    inputs = load_file(stats)
    report, tensors, types = quantized(tmp_path / "q", "W8A8_DYNAMIC", "--algorithm", name)
    assert report["algorithm"] == "minmax" and report["smoothing"] == name
    for layer in LAYERS:
        w, x = state[f"{layer}.weight"].numpy(), inputs[f"{layer}.inputs"].float().numpy()
        a, m = np.abs(x).max(0).astype(np.float64), np.abs(w).max(0).astype(np.float64)
        s = np.where((a == 0) | (m == 0), 1, np.maximum(a**alpha / np.where(m == 0, 1, m)**beta, 1e-5))
        mul = tensors[f"{layer}.div.mul_scale"].numpy()
        np.testing.assert_allclose(mul, 1 / s, rtol=1e-6)
        q, scale = minmax_int8(w * (np.float32(1) / mul))
        np.testing.assert_array_equal(tensors[f"{layer}.linear.weight"].numpy(), q)
        np.testing.assert_array_equal(tensors[f"{layer}.linear.weight_scale"].numpy(), scale)
        assert types[f"{layer}.div.mul_scale"] == types[f"{layer}.linear.bias"] == "FLOAT" and types[f"{layer}.linear.weight"] == "W8A8_DYNAMIC"
        assert f"{layer}.weight" not in tensors
        back = restored(aerogel, tmp_path / "q")[f"{layer}.weight"]
        np.testing.assert_allclose(back.numpy(), q * scale * mul, rtol=1e-6)
    found = json.loads(aerogel("inspect", tmp_path / "q", "--json").stdout)
    assert found["problems"] == [] and all(layer["smoothed"] for layer in found["layers"])


def test_awq_errs_less_than_minmax(aerogel, quantized, plain, calibrated, tmp_path):
    stats, state = calibrated
    inputs = load_file(stats)
    quantized(tmp_path / "awq", "W4A16", "--algorithm", "awq")
    awq, worse = restored(aerogel, tmp_path / "awq"), plain("W4A16")
    better = 0
    for layer in LAYERS:
        x, w = inputs[f"{layer}.inputs"], state[f"{layer}.weight"]
        errors = [output_error(x, back[f"{layer}.weight"], w) for back in (awq, worse)]
        assert errors[0] <= errors[1] * (1 + 1e-6)
        better += errors[0] < errors[1]
    assert better >= 2


def test_all_together(aerogel, tiny_pipeline, quantized, calibrated, tmp_path):
    """Smoothed, split, rotated and then GPTQ: the layer still stands for its weight, and errs less on its inputs than without GPTQ."""
    stats, state = calibrated
    inputs = load_file(stats)
    flags = ["W4A16", "--smooth", "smoothquant", "--low-rank", 4, "--rotate", 32]
    report, tensors, types = quantized(tmp_path / "all", *flags, "--algorithm", "gptq")
    quantized(tmp_path / "most", *flags)
    assert report["scheme"] == "W4A16_SVD_ROTATED"
    both = restored(aerogel, tmp_path / "all"), restored(aerogel, tmp_path / "most")
    for layer in LAYERS:
        assert {f"{layer}.svd_lowrank_l1", f"{layer}.div.mul_scale", f"{layer}.linear.rotation", f"{layer}.linear.weight"} <= tensors.keys()
        errors = [output_error(inputs[f"{layer}.inputs"], back[f"{layer}.weight"], state[f"{layer}.weight"]) for back in both]
        assert errors[0] < 0.97 * errors[1] and errors[0] < 0.2
    done = aerogel("generate", tiny_pipeline, "--prompt", "red circle moves left", "--quantized", tmp_path / "all", "-o", tmp_path / "v.safetensors")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_low_rank_part_of_a_smoothed_layer_has_the_models_type(aerogel, tiny_pipeline, calibrated, tmp_path, dtype):
    """A model in 16 bits: its branch is stored in them, and the residual makes up for their rounding."""
    stats, state = calibrated
    shutil.copytree(tiny_pipeline, tmp_path / "model")
    path = tmp_path / "model/transformer/diffusion_pytorch_model.safetensors"
    save_file({name: value.to(dtype) for name, value in state.items()}, path)
    for layout in ("v0", "v1"):
        done = aerogel("quantize", tmp_path / "model", "-o", tmp_path / layout, "--calibration", stats, "--json", "--layout", layout,
                       "--scheme", "W8A16", "--smooth", "smoothquant", "--low-rank", 4)
        assert done.returncode == 0, done.stderr
        tensors = load_file(json.loads(done.stdout)["weights"])
        back = restored(aerogel, tmp_path / layout)
        for layer in LAYERS:
            l1, l2 = tensors[f"{layer}.svd_lowrank_l1"], tensors[f"{layer}.svd_lowrank_l2"]
            assert l1.dtype == l2.dtype == dtype and l1.shape[0] == l2.shape[1] == 4
            original = state[f"{layer}.weight"].to(dtype).float()
            assert (back[f"{layer}.weight"].float() - original).norm() / original.norm() < 0.01


@pytest.mark.parametrize("scheme", ["W8A8", "W8A8_TIMESTEP"])
def test_static_ranges_are_those_of_smoothed_inputs(quantized, calibrated, tmp_path, scheme):
    """Row t: the extremes of the kept rows of step t and later, after mul_scale."""
    inputs = load_file(calibrated[0])
    _, tensors, _ = quantized(tmp_path / "q", scheme, "--smooth", "smoothquant")
    for layer in LAYERS:
        x = inputs[f"{layer}.inputs"].float() * tensors[f"{layer}.div.mul_scale"]
        steps = inputs[f"{layer}.input_steps"]
        rows = range(3) if scheme == "W8A8_TIMESTEP" else [0]
        low, high = (torch.stack([getattr(x[steps >= t], kind)() for t in rows]) for kind in ("min", "max"))
        scale = high.clamp(min=0) / 255 - low.clamp(max=0) / 255
        assert torch.equal(tensors[f"{layer}.linear.input_scale"].flatten(), scale)
        offset = (torch.round(-low.clamp(max=0) / scale) - 128).clamp(-128, 127)
        assert torch.equal(tensors[f"{layer}.linear.input_offset"].flatten(), offset)


def test_static_layers_smoothed_or_rotated(aerogel, tiny_pipeline, quantized, tmp_path):
    forms = {"plain": [], "rotated": ["--rotate", -1], "smoothed": ["--smooth", "smoothquant"]}
    scales, videos = {}, {}
    for name, flags in forms.items():
        scales[name] = quantized(tmp_path / name, "W8A8", *flags)[1]
    for name, flags in {**{n: ["--quantized", tmp_path / n] for n in forms}, "float": []}.items():
        done = aerogel("generate", tiny_pipeline, "--prompt", "red circle moves left", *flags, "-o", tmp_path / "v.safetensors")
        assert done.returncode == 0, done.stderr
        videos[name] = load_file(tmp_path / "v.safetensors")["video"]
    errors = {n: float((videos[n] - videos["float"]).norm() / videos["float"].norm()) for n in forms}
    assert 0 < errors["plain"] < 0.15 and max(errors["rotated"], errors["smoothed"]) < 1.2 * errors["plain"], errors
    assert not torch.equal(scales["plain"]["blocks.0.ffn.net.2.input_scale"], scales["rotated"]["blocks.0.ffn.net.2.input_scale"])


@pytest.mark.parametrize("flags,message", [
    (["W4A16_FP8", "--algorithm", "gptq"], "there is no scheme 'W4A16_FP8'"),
    (["W8A16_FP8", "--algorithm", "gptq"], "no algorithm 'gptq' writes fp8_e4m3"),
    (["W8A16", "--smooth", "fast"], "there is no smoothing 'fast'; there are: smoothquant, iter_smooth, flex_smooth, awq"),
    (["W8A8_MXFP8", "--smooth", "awq"], "awq is for int8 and int4 weights, W8A8_MXFP8 has mxfp8"),
])
def test_refusals(aerogel, calibrated, tmp_path, flags, message):
    model = tmp_path / "m.safetensors"
    save_file({"blocks.0.attn1.to_q.weight": calibrated[1]["blocks.0.attn1.to_q.weight"]}, model)
    done = aerogel("quantize", model, "-o", tmp_path / "q", "--calibration", calibrated[0], "--scheme", *flags)
    assert done.returncode == 1 and message in done.stderr and not list(tmp_path.glob("q/*")), done.stderr


def test_files_without_inputs(aerogel, tiny_pipeline, calibrated, tmp_path):
    tensors = load_file(calibrated[0])
    def run(edited):
        save_file(edited, tmp_path / "s")
        return aerogel("quantize", tiny_pipeline, "-o", tmp_path / "q", "--scheme", "W4A16", "--algorithm", "gptq", "--calibration", tmp_path / "s").stderr
    assert "no inputs of blocks.0.attn1.to_k were kept" in run({k: v for k, v in tensors.items() if "input" not in k})
    wrong = {**tensors, "blocks.0.attn1.to_q.inputs": torch.ones(300, 5, dtype=torch.bfloat16)}
    assert "the kept inputs of blocks.0.attn1.to_q [64,64] have 5 columns" in run(wrong)
    assert "must be bf16[rows,k] and i32[rows]" in run({**tensors, "blocks.0.attn1.to_q.inputs": torch.ones(300, 64)})
    del tensors["blocks.0.attn1.to_q.input_steps"]
    assert "blocks.0.attn1.to_q.input_steps" in run(tensors)
