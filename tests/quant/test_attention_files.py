"""Quantized attention of a model from files of either exporter: diffusers' model with the arithmetic of docs/attention.md in NumPy in
place of its attention."""
import json
import subprocess

import diffusers.models.transformers.transformer_wan as wan
import ml_dtypes
import numpy as np
import pytest
import torch
from format_reference import write_pair
from safetensors.torch import load_file, save_file
from small_model import load

HEADS, D = 2, 32
MODULES = ["blocks.0.attn1", "blocks.1.attn1", "blocks.1.attn2"]


def inputs():
    generator = torch.Generator().manual_seed(3)
    return {"hidden_states": torch.randn(1, 4, 5, 16, 14, generator=generator), "timestep": torch.tensor([500.0]),
            "encoder_hidden_states": torch.randn(1, 33, 24, generator=generator)}


def rotation(seed=0):
    """Some orthogonal matrix, in bfloat16 as files have it."""
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((D, D)))[0].astype(np.float32)).bfloat16()


# --- the arithmetic, on [batch, tokens, heads, head_dim] ----------------------------------------------------


def fp8(x, tokens):
    x = x.copy()
    for first in range(0, x.shape[1], tokens):
        block = x[:, first:first + tokens]
        scale = np.abs(block).max((1, 3), keepdims=True) / np.float32(448)
        x[:, first:first + tokens] = (block / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    return x


def mx(x, kind, emax, axis):
    x = np.moveaxis(x, axis, -1)
    size = x.shape[-1]
    blocks = np.pad(x, [(0, 0)] * 3 + [(0, -size % 32)]).reshape(*x.shape[:3], -1, 32)
    scale = np.exp2(np.floor(np.log2(np.maximum(np.abs(blocks).max(-1, keepdims=True), 1e-30))) - emax)
    top = np.float32(ml_dtypes.finfo(kind).max)
    rounded = np.clip(blocks / scale, -top, top).astype(kind).astype(np.float32) * scale
    return np.moveaxis(rounded.reshape(*x.shape[:3], -1)[..., :size], -1, axis)


def rounded(kind, q, k, v):
    if kind == "FP8":
        return fp8(q, 128), fp8(k, 256), fp8(v, 256)
    element, emax = (ml_dtypes.float8_e4m3fn, 8) if kind == "MXFP8" else (ml_dtypes.float4_e2m1fn, 2)
    return mx(q, element, emax, 3), mx(k, element, emax, 3), mx(v, element, emax, 1)


def int8(x, scale):
    return np.clip(np.rint(x / scale[:, None]), -128, 127) * scale[:, None]


class Attention:
    """Stands for dispatch_attention_fn: modules are called in the order attn1, attn2 of each block."""

    def __init__(self, quantize):
        self.quantize, self.calls = quantize, 0

    def __call__(self, query, key, value, **_):
        module = f"blocks.{self.calls // 2}.attn{self.calls % 2 + 1}"
        self.calls += 1
        q, k, v = self.quantize(module, *(x.numpy() for x in (query, key, value)))
        weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", torch.from_numpy(q), torch.from_numpy(k)) / D**0.5, -1)
        return torch.einsum("bhqk,bkhd->bqhd", weights, torch.from_numpy(v))


@pytest.fixture
def compare(build, float_model, tmp_path, monkeypatch):
    """compare(tensors, types, quantize): relative L2 of our output to diffusers' with that arithmetic, and of float attention to it."""
    folder, _ = float_model("f32")
    model = load(folder)

    def reference(quantize):
        monkeypatch.setattr(wan, "dispatch_attention_fn", Attention(quantize))
        with torch.no_grad():
            return model(**inputs(), return_dict=False)[0]

    def call(tensors, types, quantize):
        path = write_pair(tmp_path, "W8A16", tensors, types)
        save_file(inputs(), tmp_path / "in.safetensors")
        command = [build / "tests/quantize_model", folder, path, -1, tmp_path / "in.safetensors", tmp_path / "out.safetensors"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
        assert all(lines[m] != "FLOAT" for m in MODULES)
        y, wanted, plain = load_file(tmp_path / "out.safetensors")["output"], reference(quantize), reference(lambda _, *x: x)
        return float((y - wanted).norm() / wanted.norm()), float((plain - wanted).norm() / wanted.norm()), lines

    return call


@pytest.mark.parametrize("kind,rotated", [("FP8", True), ("MXFP8", True), ("MXFP8", False), ("MXFP4", True), ("MXFP4", False)])
def test_dynamic(compare, kind, rotated):
    tensors, types = {}, {}
    for i, module in enumerate(MODULES):
        types[f"{module}.quant_type"] = f"{kind}_DYNAMIC"
        if rotated:
            for name in ("q_rot", "k_rot"):
                tensors[f"{module}.{name}"], types[f"{module}.{name}"] = rotation(i), "FLOAT"

    def quantize(module, q, k, v):
        if module not in MODULES:
            return q, k, v
        r = rotation(MODULES.index(module)).float().numpy() if rotated else np.eye(D, dtype=np.float32)
        return rounded(kind, q @ r, k @ r, v)

    error, effect, lines = compare(tensors or {"x": torch.ones(1)}, types, quantize)
    assert error < 0.05 * effect and effect > 1e-4, (error, effect)
    assert lines["blocks.0.attn1"].strip() == f"{kind}_DYNAMIC"


@pytest.mark.parametrize("prefix,tag", [("fa_", "FAQuant"), ("fa3_", "FAQuant")])
def test_calibrated(compare, prefix, tag):
    """Softmax weights have 8 bits too, which the reference leaves out: the rest of the difference is small beside the effect."""
    tensors, types, scales = {}, {}, {}
    rng = np.random.default_rng(1)
    for module in MODULES:
        for part, size in (("q", 0.06), ("k", 0.05), ("v", 0.04)):
            scales[module, part] = (size * (1 + rng.random(HEADS))).astype(np.float32)
            tensors[f"{module}.{prefix}{part}.scale"] = torch.from_numpy(scales[module, part]).reshape(HEADS, 1)
            tensors[f"{module}.{prefix}{part}.offset"] = torch.zeros(HEADS, 1, dtype=torch.int8 if prefix == "fa3_" else torch.float32)
    types = {k: tag for k in tensors}
    if prefix == "fa3_":
        types |= {"fa_quant_type": "FAKQuant", **{f"{m}.quant_type": "INT8" for m in MODULES}}

    def quantize(module, q, k, v):
        return tuple(int8(x, scales[module, part]) for part, x in zip("qkv", (q, k, v))) if module in MODULES else (q, k, v)

    error, effect, lines = compare(tensors, types, quantize)
    assert error < 0.5 * effect and effect > 1e-4, (error, effect)
    assert lines["blocks.0.attn1"].strip() == ("INT8" if prefix == "fa3_" else "FAQUANT")


@pytest.fixture
def load_pair(build, float_model, tmp_path):
    def call(tensors, types):
        path = write_pair(tmp_path, "W8A16", tensors, types)
        return subprocess.run([build / "tests/quantize_model", float_model("f32")[0], path], capture_output=True, text=True)

    return call


def scale_tensors(module, count=HEADS):
    return {f"{module}.fa_{part}.scale": torch.ones(count, 1) for part in "qkv"}


@pytest.mark.parametrize("tensors,types,message", [
    ({}, {"blocks.0.attn1.quant_type": "FP8_DYNAMIC"}, "'blocks.0.attn1.q_rot' (FP8_DYNAMIC) must be in the file, got nothing"),
    ({"blocks.0.attn1.q_rot": torch.ones(D, D)}, {"blocks.0.attn1.quant_type": "MXFP4_DYNAMIC"}, "k_rot' (MXFP4_DYNAMIC) must be in the file beside the other"),
    ({"blocks.0.attn1.q_rot": torch.ones(D, 4)}, {"blocks.0.attn1.quant_type": "MXFP4_DYNAMIC"}, "must be f32, bf16 or f16 [32,32], got f32[32,4]"),
    (scale_tensors("blocks.0.attn1", 70), {}, "must be [2,1], one per head of this model, got f32[70,1]"),
    ({"blocks.0.attn1.fa_q.scale": torch.ones(2, 1)}, {}, "'blocks.0.attn1.fa_k.scale' (FAQUANT) must be in the file, got nothing"),
    (scale_tensors("blocks.0.self_attn"), {}, "the model has no attention 'blocks.0.self_attn', did you mean 'blocks.0.attn1'?"),
])
def test_refusals(load_pair, tensors, types, message):
    tensors = {**tensors, "x": torch.ones(1)}
    done = load_pair(tensors, {**{k: "FAQuant" if ".fa" in k else "FLOAT" for k in tensors}, **types})
    assert done.returncode == 1 and message in done.stderr and done.stdout == "quantized 0\n", done


def test_types_that_are_not_there_stay_float(load_pair):
    done = load_pair({"x": torch.ones(1)}, {"blocks.0.attn1.quant_type": "Q_FP8_DYNAMIC_KV_FP8"})
    assert done.returncode == 0 and "blocks.0.attn1 FLOAT Q_FP8_DYNAMIC_KV_FP8 attention is not supported" in done.stdout


def test_inspect_and_dequantize(aerogel, tmp_path):
    """Attention is told and checked, and its tensors do not come back as weights."""
    tensors = {"a.q_rot": torch.eye(4), "a.k_rot": torch.eye(4), **scale_tensors("b"), "x": torch.ones(1)}
    types = {"a.quant_type": "FP8_DYNAMIC", "fa_quant_type": "FAQuant", **{k: "FAQuant" if ".fa" in k else "FLOAT" for k in tensors}}
    path = write_pair(tmp_path, "W8A16", tensors, types)
    found = json.loads(aerogel("inspect", path, "--json").stdout)
    assert found["problems"] == [] and [t["name"] for t in found["float_tensors"]] == ["x"]
    assert found["notes"] == ["quantized attention: FAQUANT (1 of them)", "quantized attention: FP8_DYNAMIC (1 of them)"]
    assert aerogel("dequantize", path, "-o", tmp_path / "f").returncode == 0
    assert sorted(load_file(tmp_path / "f")) == ["x"]
    del tensors["a.k_rot"]
    write_pair(tmp_path, "W8A16", tensors, types)
    done = aerogel("inspect", path, "--json")
    assert done.returncode == 1 and any("k_rot" in p for p in json.loads(done.stdout)["problems"])
