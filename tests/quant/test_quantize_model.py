"""quantize(model, description): what is replaced, what stays float and why, all or nothing, and that the model computes with it."""
import json
import subprocess

import pytest
import torch
from format_reference import quantize_model, write_pair, write_stats
from safetensors.torch import load_file, save_file
from small_model import LAYERS, load



@pytest.fixture
def run(build):
    def run(*arguments):
        return subprocess.run([build / "tests/quantize_model", *map(str, arguments)], capture_output=True, text=True)

    return run


def parse(text):
    lines = [line.split(" ", 2) for line in text.splitlines()]
    return {name: (scheme, why) for name, scheme, why in lines if name != "bytes"}, tuple(map(int, lines[-1][1:]))


def refused(done):
    assert done.returncode == 1 and done.stdout == "quantized 0\n" and done.stderr.count("\n") == 1, done
    return done.stderr


def inputs():
    generator = torch.Generator().manual_seed(3)
    return {"hidden_states": torch.randn(1, 4, 2, 8, 8, generator=generator), "timestep": torch.tensor([500.0]),
            "encoder_hidden_states": torch.randn(1, 5, 24, generator=generator)}


@pytest.mark.parametrize("scheme", ["W8A16", "W8A8_DYNAMIC", "W8A8", "W8A8_TIMESTEP"])
def test_report_and_output(run, float_model, tmp_path, scheme):
    """The quantized model is close to the float one, as close as diffusers with dequantized weights for W8A16."""
    folder, state = float_model("f32")
    layers = LAYERS[:-3]
    stats = calibrated(folder, layers)
    tensors, types = quantize_model(state, layers, scheme, stats)
    del types[f"{LAYERS[-1]}.weight"]
    path = write_pair(tmp_path, scheme, tensors, types)
    save_file(inputs(), tmp_path / "in.safetensors")
    done = run(folder, path, -1, tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert done.returncode == 0, done.stderr
    report, (before, after) = parse(done.stdout)
    assert {n for n, (s, _) in report.items() if s == scheme} == set(layers)
    assert report[LAYERS[-1]] == ("FLOAT", "not in the description")
    assert report["proj_out"] == ("FLOAT", "marked FLOAT") and report[LAYERS[-2]] == ("FLOAT", "marked FLOAT")
    assert before == sum(v.numel() * 4 for v in state.values())
    stored = sum(v.numel() * v.element_size() for v in tensors.values())
    assert after == stored
    model = load(folder)
    with torch.no_grad():
        exact = model(**inputs(), return_dict=False)[0]
    y = load_file(tmp_path / "out.safetensors")["output"]
    error = float((y - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.05
    if scheme == "W8A16":
        with torch.no_grad():
            for name in layers:
                model.get_submodule(name).weight.copy_(tensors[f"{name}.weight"] * tensors[f"{name}.weight_scale"])
            wanted = model(**inputs(), return_dict=False)[0]
        assert float((y - wanted).norm() / wanted.norm()) < 1e-5


def calibrated(folder, layers, steps=2):
    """Ranges that diffusers sees with the same inputs."""
    model, stats = load(folder), {}
    for name in layers:
        def hook(module, args, name=name):
            stats[f"{name}.forwards"] = torch.ones(steps, dtype=torch.int64)
            stats[f"{name}.min_sum"] = torch.full((steps,), float(args[0].min()), dtype=torch.float64)
            stats[f"{name}.max_sum"] = torch.full((steps,), float(args[0].max()), dtype=torch.float64)

        model.get_submodule(name).register_forward_pre_hook(hook)
    with torch.no_grad():
        model(**inputs())
    return stats


def test_unknown_layer(run, float_model, tmp_path):
    folder, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS, "W8A16")
    for kind in ("weight", "weight_scale"):
        tensors[f"blocks.2.ffn.net.2.{kind}"] = tensors[f"blocks.1.ffn.net.2.{kind}"].clone()
        types[f"blocks.2.ffn.net.2.{kind}"] = "W8A16"
    text = refused(run(folder, write_pair(tmp_path, "W8A16", tensors, types)))
    assert "the model has no Linear 'blocks.2.ffn.net.2', did you mean 'blocks." in text


@pytest.mark.parametrize("shape", [(64, 64), (96, 64)])
def test_wrong_shape(run, float_model, tmp_path, shape):
    """The last layer does not fit: none is replaced."""
    folder, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS, "W8A16")
    name = LAYERS[-1]
    tensors |= {f"{name}.weight": torch.zeros(shape, dtype=torch.int8), f"{name}.weight_scale": torch.ones(shape[0], 1),
                f"{name}.weight_offset": torch.zeros(shape[0], 1), f"{name}.bias": torch.zeros(shape[0])}
    text = refused(run(folder, write_pair(tmp_path, "W8A16", tensors, types)))
    assert f"'{name}.weight' must be i8[64,96] for this model, got i8[{shape[0]},{shape[1]}]" in text


def test_scheme_that_is_not_there(run, float_model, tmp_path):
    folder, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS, "W8A16")
    types[f"{LAYERS[-1]}.weight"] = "W8A8_MIX"
    text = refused(run(folder, write_pair(tmp_path, "W8A16", tensors, types)))
    assert "scheme W8A8_MIX is not supported; supported are: W8A16" in text


def test_mixed_schemes_and_attention(run, float_model, tmp_path):
    """Each layer has its own scheme, whatever model_quant_type says; attention has one of its own."""
    folder, state = float_model("bf16")
    stats = write_stats(tmp_path / "s.safetensors", LAYERS, steps=2)
    static, static_types = quantize_model(state, LAYERS[:3], "W8A8", stats)
    dynamic, types = quantize_model(state, LAYERS[3:6], "W8A8_DYNAMIC")
    tensors = {k: v for k, v in {**dynamic, **static}.items() if k in static_types and static_types[k] != "FLOAT" or k not in static}
    tensors |= {k: dynamic[k] for k in types if types[k] != "FLOAT"} | {k: v for k, v in static.items() if k.endswith(".bias")}
    types |= {k: v for k, v in static_types.items() if v != "FLOAT"}
    for part in "qkv":
        types[f"blocks.0.attn1.fa_{part}.scale"] = "FAQuant"
        tensors[f"blocks.0.attn1.fa_{part}.scale"] = torch.ones(2, 1)
    done = run(folder, write_pair(tmp_path, "W8A8_DYNAMIC", tensors, types))
    assert done.returncode == 0, done.stderr
    report, _ = parse(done.stdout)
    assert [report[n][0] for n in LAYERS[:6]] == ["W8A8"] * 3 + ["W8A8_DYNAMIC"] * 3
    assert report["blocks.0.attn1"] == ("FAQUANT", "")


def test_rank(run, float_model, tmp_path):
    folder, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS[:1], "W8A16")
    write_pair(tmp_path, "W8A16", tensors, types, suffix="_1")
    path = tmp_path / "quant_model_description_w8a16_0.json"
    assert "w8a16_0.json" in refused(run(folder, path))
    assert run(folder, path, 1).returncode == 0


def test_json_keys_of_other_types(run, float_model, tmp_path):
    """Values that are no strings, as other exporters write, do no harm."""
    folder, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS[:1], "W8A16")
    path = write_pair(tmp_path, "W8A16", tensors, types)
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "1.0.0", "group_size": 0, "metadata": {"a": {}}, "optional": []}))
    done = run(folder, path)
    assert done.returncode == 0, done.stderr
