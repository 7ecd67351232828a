"""Files that do not fit get one line that names the tensor, what it must be and what it is."""
import json

import numpy as np
import pytest
import torch
from format_reference import write_pair
from pair_cases import make_pair, static_steps, weights


def set_tensor(name, value):
    return lambda tensors, types: tensors.__setitem__(name, value)


def remove(name):
    return lambda tensors, types: tensors.pop(name)


NAN = float("nan")
DYNAMIC = [
    (remove("net.fc.weight_scale"), "'net.fc.weight_scale' (W8A8_DYNAMIC) must be in the file, got nothing"),
    (set_tensor("net.fc.weight", torch.zeros(24, 40)), "'net.fc.weight' (W8A8_DYNAMIC) must be i8[out_features,in_features], got f32[24,40]"),
    (set_tensor("net.fc.weight", torch.zeros(24, 4, 10, dtype=torch.int8)), "must be i8[out_features,in_features], got i8[24,4,10]"),
    (set_tensor("net.fc.weight_scale", torch.ones(23, 1)), "'net.fc.weight_scale' (W8A8_DYNAMIC) must be [24,1] or [24,groups], got f32[23,1]"),
    (set_tensor("net.fc.weight_scale", torch.ones(24, 3)), "[24,groups], got f32[24,3]"),
    (set_tensor("net.fc.weight_scale", torch.ones(24, 1, dtype=torch.int32)), "must be f32, bf16 or f16 [24,1], got i32[24,1]"),
    (set_tensor("net.fc.weight_scale", torch.full((24, 1), NAN)), "weight_scale has the value nan at element 0"),
    (set_tensor("net.fc.weight_offset", torch.ones(24, 1)), "must be zeros (weights are symmetric in this scheme)"),
    (set_tensor("net.fc.weight_offset", torch.ones(2, 1)), "'net.fc.weight_offset' (W8A8_DYNAMIC) must be f32, bf16 or f16 [24,1], got f32[2,1]"),
    (remove("net.fc.bias"), "'net.fc.bias' (W8A8_DYNAMIC) must be in the file, got nothing"),  # listed: it would be lost
    (remove("net.fc.weight_offset"), "'net.fc.weight_offset' (W8A8_DYNAMIC) must be in the file, got nothing"),
    (set_tensor("net.fc.bias", torch.ones(25)), "'net.fc.bias' (W8A8_DYNAMIC) must be f32, bf16 or f16 [24], got f32[25]"),
]
STATIC = [
    (remove("net.fc.input_scale"), "'net.fc.input_scale' (W8A8) must be in the file, got nothing"),
    (remove("net.fc.input_offset"), "'net.fc.input_offset' (W8A8) must be in the file, got nothing"),
    (remove("net.fc.quant_bias"), "'net.fc.quant_bias' (W8A8) must be in the file, got nothing"),
    (remove("net.fc.deq_scale"), "'net.fc.deq_scale' (W8A8) must be in the file, got nothing"),
    (set_tensor("net.fc.input_scale", torch.ones(2)), "'net.fc.input_scale' (W8A8) must be f32, bf16 or f16 [1], got f32[2]"),
    (set_tensor("net.fc.input_scale", torch.zeros(1)), "input_scale must be positive and finite, got 0"),
    (set_tensor("net.fc.input_scale", torch.tensor([NAN])), "input_scale must be positive and finite, got nan"),
    (set_tensor("net.fc.input_offset", torch.tensor([0.5])), "input_offset must be a whole number of [-128, 127], got 0.5"),
    (set_tensor("net.fc.input_offset", torch.tensor([128.0])), "input_offset must be a whole number of [-128, 127], got 128"),
    (set_tensor("net.fc.quant_bias", torch.zeros(24)), "'net.fc.quant_bias' (W8A8) must be i32 [1,24], got f32[24]"),
    (set_tensor("net.fc.deq_scale", torch.zeros(24, dtype=torch.int32)), "'net.fc.deq_scale' (W8A8) must be f32 or i64 [1,24], got i32[24]"),
    (set_tensor("net.fc.deq_scale", torch.full((24,), 0x7FC00000)), "deq_scale has the value nan at element 0"),
]


def one_line(done):
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


@pytest.mark.parametrize("edit,message", DYNAMIC)
def test_dynamic(aerogel, tmp_path, edit, message):
    q, scale, bias = weights()
    path = make_pair(tmp_path, "W8A8_DYNAMIC", q=q, scale=scale, bias=bias, edit=edit)
    assert message in one_line(aerogel("dequantize", path, "-o", tmp_path / "out.safetensors"))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("edit,message", STATIC)
def test_static(aerogel, tmp_path, edit, message):
    q, scale, bias = weights()
    path = make_pair(tmp_path, "W8A8", q=q, scale=scale, bias=bias, steps=static_steps(q, scale, bias, 1), edit=edit)
    assert message in one_line(aerogel("dequantize", path, "-o", tmp_path / "out.safetensors"))


def test_schemes_that_are_not_there(aerogel, tmp_path):
    q, scale, bias = weights()
    path = make_pair(tmp_path, "W8A8_MIX", q=q, scale=scale, bias=bias)
    text = one_line(aerogel("dequantize", path, "-o", tmp_path / "out.safetensors"))
    assert "scheme W8A8_MIX is not supported; supported are: W8A16, W4A16, W8A16_FP8," in text
    path = make_pair(tmp_path / "b", "W9A9", q=q, scale=scale, bias=bias)
    assert "'net.fc.weight' has the unknown type 'W9A9'" in one_line(aerogel("dequantize", path, "-o", tmp_path / "o.safetensors"))


def test_missing_files(aerogel, tmp_path):
    out = ["-o", tmp_path / "out.safetensors"]
    assert "has no quant_model_description*.json" in one_line(aerogel("dequantize", tmp_path, *out))
    path = write_pair(tmp_path, "W8A16", {"a": torch.ones(1)}, {"a": "FLOAT"})
    (tmp_path / "quant_model_weight_w8a16.safetensors").unlink()
    assert "quant_model_weight_w8a16.safetensors" in one_line(aerogel("dequantize", path, *out))
    path.write_text(json.dumps({"a": "FLOAT"}))
    assert "model_quant_type" in one_line(aerogel("dequantize", path, *out))


def test_ranks(aerogel, tmp_path):
    """--rank takes the files of that rank, from the name of any rank, of none, or from the folder."""
    for rank in (0, 12):
        q, scale, bias = weights(seed=rank)
        tensors = {"fc.weight": torch.from_numpy(q), "fc.weight_scale": torch.from_numpy(scale), "fc.bias": torch.from_numpy(bias)}
        types = {k: "FLOAT" if k.endswith("bias") else "W8A16" for k in tensors}
        write_pair(tmp_path, "W8A16", tensors, types, suffix=f"_{rank}")
    begin = tmp_path / "quant_model_description_w8a16"
    for path, options, rank in [(f"{begin}_0.json", [], 0), (f"{begin}_12.json", [], 12), (f"{begin}_0.json", ["--rank", 12], 12),
                                (f"{begin}.json", ["--rank", 12], 12), (tmp_path, ["--rank", 0], 0)]:
        report = aerogel("inspect", path, *options, "--json")
        assert report.returncode == 0 and json.loads(report.stdout)["weights"].endswith(f"w8a16_{rank}.safetensors")
    assert "2 descriptions, name one of them" in one_line(aerogel("inspect", tmp_path))
    assert "w8a16_7.json" in one_line(aerogel("inspect", f"{begin}.json", "--rank", 7))


def test_negative_128_survives(aerogel, tmp_path):
    from safetensors.torch import load_file

    q, scale, bias = weights()
    path = make_pair(tmp_path, "W8A8_DYNAMIC", q=q, scale=scale, bias=bias)
    assert aerogel("dequantize", path, "-o", tmp_path / "out.safetensors").returncode == 0
    out = load_file(tmp_path / "out.safetensors")
    assert np.array_equal(out["net.fc.weight"].numpy(), q.astype(np.float32) * scale) and (q == -128).any()
    assert sorted(out) == ["net.fc.bias", "net.fc.weight", "norm.weight"]
