"""Rotated layers and layers with a low-rank branch: what they compute, their files, and back to float; against NumPy."""
import json
import subprocess

import numpy as np
import pytest
import torch
from format_reference import write_pair
from safetensors.torch import load_file, save_file
from small_formats import SCHEMES, decode, layer_tensors, run
from small_model import LAYERS

N, K, RANK = 24, 192, 5


def sylvester(n):
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.kron([[1, 1], [1, -1]], h)
    return h


def regular(n):
    """ConvRot's: the Kronecker power of a Hadamard matrix of order four without a constant column."""
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.kron([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], h)
    return h


def matrix(signs, kind="_ROTATED"):
    """R of signs [k / block, block]."""
    block = signs.shape[1]
    h = {"_ROTATED": sylvester, "_CONVROT": regular}[kind](block)
    return np.kron(np.eye(signs.shape[0]), h) * signs.reshape(-1, 1) / np.sqrt(block)


def activations(rows=37, dtype=torch.float32):
    """Eighths: rotating blocks of 4^n of them is exact, so rounding to few bits has no ties that float32 could break."""
    x = np.random.default_rng(3).integers(-60, 61, (rows, K)) / 8
    x[:, 7] *= 4
    return torch.from_numpy(x.astype(np.float32)).to(dtype)


def make(folder, scheme, *around):
    """A pair of one layer "net.fc" of random arrays; returns path, its tensors by short name and what surrounds them."""
    block, rank, smoothed, kind = (*around, *(0, 0, False, "_ROTATED")[len(around):])
    rng = np.random.default_rng(5)
    weight = torch.from_numpy(rng.standard_normal((N, K)).astype(np.float32))
    bias = None if smoothed else torch.from_numpy(rng.standard_normal(N).astype(np.float32))
    prefix = "net.fc.linear" if smoothed else "net.fc"
    tensors = layer_tensors(prefix, weight, bias, scheme)
    short = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items()}
    name = scheme.replace("_DYNAMIC", "_SVD_DYNAMIC") if scheme.endswith("_DYNAMIC") and rank else scheme + "_SVD" * bool(rank)
    name += kind * bool(block)
    types = {k: "FLOAT" if k.endswith("bias") else name for k in tensors}
    around = {"kind": kind}
    if block:
        around["signs"] = rng.choice([-1, 1], (K // block, block))
        tensors[f"{prefix}.rotation"] = torch.from_numpy(around["signs"].astype(np.int8))
        types[f"{prefix}.rotation"] = name
    if rank:
        for key, shape in (("svd_lowrank_l1", (rank, K)), ("svd_lowrank_l2", (N, rank))):
            around[key] = rng.standard_normal(shape).astype(np.float32)
            tensors[f"net.fc.{key}"], types[f"net.fc.{key}"] = torch.from_numpy(around[key]), "FLOAT"
    if smoothed:
        around["mul_scale"] = np.exp2(rng.integers(-2, 3, K)).astype(np.float32)
        tensors["net.fc.div.mul_scale"], types["net.fc.div.mul_scale"] = torch.from_numpy(around["mul_scale"]), "FLOAT"
    return write_pair(folder, name, tensors, types), short, around


def expected(tensors, scheme, x, around):
    """y and the largest error that float32 products of the branch may add to it."""
    values = x.float().numpy() * around.get("mul_scale", np.float32(1))
    main = values if "signs" not in around else (values.astype(np.float64) @ matrix(around["signs"], around["kind"])).astype(np.float32)
    kept = torch.from_numpy(main).to(x.dtype if "signs" not in around else torch.float32)
    y, error = run(tensors, scheme, kept)
    if "svd_lowrank_l1" in around:
        l1, l2 = (around[k].astype(np.float64) for k in ("svd_lowrank_l1", "svd_lowrank_l2"))
        error = error + np.abs(values) @ np.abs(l1).T @ np.abs(l2).T * (K + RANK + 4) * 2.0**-24 + np.abs(y) * 2.0**-23
        y = y + values @ l1.T @ l2.T
    return y, error


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("around", [(64, 0, False), (0, RANK, False), (16, RANK, True), (64, 0, True), (0, RANK, True),
                                    (64, 0, False, "_CONVROT"), (16, RANK, True, "_CONVROT")])
def test_runs(build, tmp_path, scheme, around):
    path, tensors, around = make(tmp_path, scheme, *around)
    for dtype in (torch.float32, torch.bfloat16):
        x = activations(rows=1100 if scheme == "W4A4_DYNAMIC" else 37, dtype=dtype)
        save_file({"x": x}, tmp_path / "x.safetensors")
        command = [build / "tests/quantized_linear_run", path, "net.fc", tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        y = load_file(tmp_path / "y.safetensors")["y"]
        wanted, error = expected(tensors, scheme, x, around)
        slack = error + (0 if dtype == torch.float32 else np.abs(wanted) * 2.0**-8 + 1e-30)
        assert y.dtype == dtype and (np.abs(y.double().numpy() - wanted) <= slack).all()


@pytest.mark.parametrize("flags", [("W8A8_DYNAMIC", "--rotate", 32), ("W4A4_MXFP4", "--low-rank", 6),
                                   ("W4A16", "--rotate", -1, "--low-rank", 6), ("W8A8_MXFP8", "--rotate", 16, "--low-rank", 3),
                                   ("W8A8_DYNAMIC", "--rotate", "convrot"), ("W4A16", "--rotate", "convrot:4", "--low-rank", 6)])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_export_and_back(aerogel, float_model, tmp_path, flags, dtype):
    """The stored weight decodes to (W - l2 l1) R within the format's error, and `dequantize` undoes all of it."""
    scheme = flags[0]
    folder, state = float_model(dtype)
    done = aerogel("quantize", folder, "-o", tmp_path, "--json", "--scheme", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    name = report["scheme"]
    assert ("_SVD" in name) == ("--low-rank" in flags) and name.endswith(("_ROTATED", "_CONVROT")) == ("--rotate" in flags)
    stored = load_file(tmp_path / f"quant_model_weight_{name.lower()}.safetensors")
    types = json.loads((tmp_path / f"quant_model_description_{name.lower()}.json").read_text())
    assert aerogel("dequantize", tmp_path, "-o", tmp_path / "f").returncode == 0
    back = load_file(tmp_path / "f")
    assert back.keys() == state.keys()
    for layer in LAYERS:
        tensors = {k.removeprefix(f"{layer}."): v for k, v in stored.items() if k.startswith(f"{layer}.")}
        assert types[f"{layer}.weight"] == name and types[f"{layer}.bias"] == "FLOAT"
        w = state[f"{layer}.weight"].double().numpy()
        rest, r = w, np.eye(w.shape[1])
        low = np.zeros_like(w)
        if "--low-rank" in flags:
            assert types[f"{layer}.svd_lowrank_l1"] == types[f"{layer}.svd_lowrank_l2"] == "FLOAT"
            assert tensors["svd_lowrank_l1"].dtype == state[f"{layer}.weight"].dtype
            low = tensors["svd_lowrank_l2"].double().numpy() @ tensors["svd_lowrank_l1"].double().numpy()
            rest = w - low
            best = np.sqrt((np.linalg.svd(w, compute_uv=False)[tensors["svd_lowrank_l1"].shape[0]:] ** 2).sum())
            assert np.linalg.norm(rest) < 1.05 * best
        if "--rotate" in flags:
            assert tensors["rotation"].dtype == torch.int8 and types[f"{layer}.rotation"] == name
            kind = "_CONVROT" if "convrot" in str(flags) else "_ROTATED"
            assert name.endswith(kind) and (kind == "_ROTATED" or (tensors["rotation"] == 1).all())
            r = matrix(tensors["rotation"].double().numpy(), kind)
        decoded = decode(tensors, SCHEMES[scheme][0] if scheme in SCHEMES else "int8").astype(np.float64)
        limit = {"W8A8_DYNAMIC": 0.012, "W4A4_MXFP4": 0.15, "W4A16": 0.2, "W8A8_MXFP8": 0.035}[scheme]
        assert np.linalg.norm(decoded - rest @ r) < limit * np.linalg.norm(rest)
        np.testing.assert_allclose(back[f"{layer}.weight"].numpy(), decoded @ r.T + low, rtol=0, atol=2e-6)
    errors = {layer["name"]: layer["relative_error"] for layer in report["layers"]}
    for layer in LAYERS:
        w = state[f"{layer}.weight"].double()
        assert errors[layer] == pytest.approx(float((back[f"{layer}.weight"].double() - w).norm() / w.norm()), rel=1e-3)
    found = json.loads(aerogel("inspect", tmp_path, "--json").stdout)
    assert found["problems"] == [] and all(layer["runs"] and layer["scheme"] == name for layer in found["layers"])
    assert not {t["name"] for t in found["float_tensors"]} & {f"{layer}.svd_lowrank_l1" for layer in LAYERS}


def test_both_help_four_bits(aerogel, tmp_path):
    """Outliers in a few columns and a strong direction: each transform takes its own kind away."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((96, 256)) + 8 * np.outer(rng.standard_normal(96), rng.standard_normal(256))
    weight[:, ::32] *= 6
    save_file({"blocks.0.ffn.0.weight": torch.from_numpy(weight.astype(np.float32))}, tmp_path / "m.safetensors")
    errors = {}
    for flags in ((), ("--rotate", -1), ("--low-rank", 4), ("--low-rank", 12, "--rotate", -1)):
        done = aerogel("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q", "--scheme", "W4A16", "--group-size", 0, "--include", "*", "--json",
                       *flags)
        errors[flags] = json.loads(done.stdout)["layers"][0]["relative_error"]
    plain, rotated, low, both = errors.values()
    assert rotated < 0.8 * plain and low < 0.8 * plain and both < low


def test_float_residuals_get_their_part_back(aerogel, tmp_path):
    """A layer that was decomposed and then not quantized: its float weight is a residual."""
    rng = torch.Generator().manual_seed(1)
    l1, l2, rest = torch.randn(3, 40, generator=rng), torch.randn(8, 3, generator=rng), torch.randn(8, 40, generator=rng)
    tensors = {"a.weight": rest, "a.svd_lowrank_l1": l1, "a.svd_lowrank_l2": l2, "a.bias": torch.ones(8)}
    path = write_pair(tmp_path, "W4A4_MXFP4_SVD", tensors, {k: "FLOAT" for k in tensors})
    assert aerogel("dequantize", path, "-o", tmp_path / "f").returncode == 0
    back = load_file(tmp_path / "f")
    assert sorted(back) == ["a.bias", "a.weight"]
    torch.testing.assert_close(back["a.weight"].double(), rest.double() + l2.double() @ l1.double(), rtol=0, atol=2e-6)
    tensors["a.svd_lowrank_l2"] = torch.zeros(8, 4)
    write_pair(tmp_path, "W4A4_MXFP4_SVD", tensors, {k: "FLOAT" for k in tensors})
    done = aerogel("dequantize", path, "-o", tmp_path / "g")
    assert done.returncode == 1 and "the low-rank part of a must be [r,k] and [n,r], got f32[3,40] and f32[8,4]" in done.stderr


@pytest.mark.parametrize("name,value,message", [
    ("rotation", torch.zeros(3, 64, dtype=torch.int8), "rotation must hold 1 and -1, got 0 at element 0"),
    ("rotation", torch.ones(2, 96, dtype=torch.int8), "rotation must be [192/block,block] with a power of two as block, got f32[2,96]"),
    ("rotation", torch.ones(4, 64, dtype=torch.int8), "rotation must be f32[3,64], got f32[4,64]"),
    ("rotation", torch.ones(3, 64, dtype=torch.int32), "must be i8 or float [k/block,block], got i32[3,64]"),
    ("rotation", None, "'net.fc.rotation' (W4A4_SVD_DYNAMIC_ROTATED) must be in the file, got nothing"),
    ("svd_lowrank_l1", None, "'net.fc.svd_lowrank_l1' (W4A4_SVD_DYNAMIC_ROTATED) must be in the file, got nothing"),
    ("svd_lowrank_l2", torch.ones(N, 4), "got f32[5,192] and f32[24,4]"),
    ("svd_lowrank_l1", torch.full((RANK, K), float("nan")), "svd_lowrank_l1 has the value nan at element 0"),
    ("svd_lowrank_l2", torch.ones(N, RANK, dtype=torch.int8), "must be f32, bf16 or f16"),
])
def test_damaged_files(aerogel, tmp_path, name, value, message):
    path, _, _ = make(tmp_path, "W4A4_DYNAMIC", 64, RANK)
    file = tmp_path / "quant_model_weight_w4a4_svd_dynamic_rotated.safetensors"
    tensors = load_file(file)
    del tensors[f"net.fc.{name}"]
    save_file(tensors if value is None else {**tensors, f"net.fc.{name}": value}, file)
    done = aerogel("dequantize", path, "-o", tmp_path / "f")
    assert done.returncode == 1 and message in done.stderr and not (tmp_path / "f").exists()


@pytest.mark.parametrize("flags,message", [
    (["--scheme", "W8A16", "--rotate", 48], "block must be -1 or a power of two that divides the 64 columns, got 48"),
    (["--scheme", "W8A16", "--low-rank", 65], "blocks.0.attn1.to_k: the rank must be at most 64, got 65 (weight [64,64])"),
    (["--scheme", "W8A16", "--low-rank", -1], "--low-rank: must be a whole number from 0 to 1048576, got '-1'"),
])
def test_refusals(aerogel, float_model, tmp_path, flags, message):
    done = aerogel("quantize", float_model("f32")[0], "-o", tmp_path / "q", *flags)
    assert done.returncode == 1 and message in done.stderr and not (tmp_path / "q").exists(), done.stderr
