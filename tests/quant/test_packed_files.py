"""Checkpoints of GPTQ, AWQ and AutoRound, packed here as AutoGPTQ, AutoAWQ and AutoRound pack them (loops over the words)."""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

N, K = 48, 256


def words(codes, bits, order=None):
    """Rows of 32 / bits codes each become one int32; `order`: the column of each place from the lowest bits on."""
    per_word = 32 // bits
    out = np.zeros((len(codes) // per_word, *codes.shape[1:]), np.uint32)
    for place in range(per_word):
        column = place if order is None else order[place]
        out |= codes[column::per_word].astype(np.uint32) << np.uint32(bits * place)
    return torch.from_numpy(out.view(np.int32))


def quantized(bits, group, sym, seed=0):
    """(codes [N, K], zeros [N, groups], scales [N, groups]), w = (codes - zeros) * scales."""
    rng = np.random.default_rng(seed)
    groups = K // (group or K)
    zeros = np.full((N, groups), 2 ** (bits - 1)) if sym else rng.integers(0, 2**bits, (N, groups))
    return rng.integers(0, 2**bits, (N, K)), zeros, rng.uniform(0.5, 2, (N, groups)).astype(np.float16)


def gptq(codes, zeros, scales, bits, g_idx):
    return {"qweight": words(codes.T, bits), "qzeros": words((zeros - 1) % 2**bits, bits).T.contiguous(),
            "scales": torch.from_numpy(scales.T.copy()), "g_idx": torch.from_numpy(g_idx.astype(np.int32))}


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def awq(codes, zeros, scales, bits, g_idx):
    return {"qweight": words(codes, 4, AWQ_ORDER).T.contiguous(), "qzeros": words(zeros, 4, AWQ_ORDER).T.contiguous(),
            "scales": torch.from_numpy(scales.T.copy())}


def write(folder, tensors, config, name="quantization_config.json"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({f"net.fc.{k}": v for k, v in tensors.items()} | {"norm.weight": torch.ones(3)}, folder / "model.safetensors")
    (folder / name).write_text(json.dumps(config))
    return folder / "model.safetensors"


CASES = {
    "gptq": (4, 128, True, {"quant_method": "gptq", "desc_act": False, "sym": True}),
    "gptq, act order": (4, 32, False, {"quant_method": "gptq", "desc_act": True}),
    "gptq, 8 bits in act order": (8, 64, True, {"quant_method": "gptq", "desc_act": True}),
    "gptq, rows": (4, -1, False, {"quant_method": "gptq"}),
    "gptq, 8 bits": (8, 64, False, {"quant_method": "gptq"}),
    "gptq_v2": (4, 32, False, {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}),
    "awq": (4, 64, False, {"quant_method": "awq", "zero_point": True, "version": "gemm"}),
    "auto-round": (4, 32, True, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "data_type": "int", "sym": True}),
    "auto-round, gptqmodel": (4, 32, False, {"quant_method": "auto-round", "packing_format": "auto_round:gptqmodel",
                                             "extra_config": {"net.head": {"bits": 16, "data_type": "float"}}}),
    "auto-round, gptq": (4, 32, False, {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "dynamic": {"-:head": {}}}),
    "auto-round, awq": (4, 128, False, {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}),
}


@pytest.mark.parametrize("case", CASES)
def test_integers(build, aerogel, tmp_path, case):
    bits, size, sym, config = CASES[case]
    group = max(size, 0)
    codes, zeros, scales = quantized(bits, group, sym)
    pack = awq if "awq" in case else gptq
    g_idx = np.arange(K) // (group or K)
    if "act order" in case:  # groups by the size of activations, as AutoGPTQ's fasterquant deals them
        g_idx = g_idx[np.argsort(np.random.default_rng(7).permutation(K))]
    stored = zeros + 1 if case in ("gptq_v2", "auto-round, gptqmodel") else zeros  # as they are, not less one
    bias = torch.randn(N, dtype=torch.float16)
    path = write(tmp_path / "m", pack(codes, stored, scales, bits, g_idx) | {"bias": bias}, config | {"bits": bits, "group_size": size})
    wide = lambda v: v[:, g_idx].astype(np.float64)
    weight = (codes - wide(zeros)) * wide(scales)

    shown = json.loads(aerogel("inspect", path, "--json").stdout)
    program = {"gptq": "GPTQ", "awq": "AWQ", "auto-round": "AutoRound"}[config["quant_method"]]
    assert shown["problems"] == [] and shown["program"] == program
    assert [(layer["name"], layer["scheme"], layer["shape"]) for layer in shown["layers"]] == [("net.fc", f"W{bits}A16", [N, K])]
    assert [t["name"] for t in shown["float_tensors"]] == ["norm.weight"]

    assert aerogel("dequantize", path, "-o", tmp_path / "f.safetensors").returncode == 0
    back = load_file(tmp_path / "f.safetensors")
    assert set(back) == {"net.fc.weight", "net.fc.bias", "norm.weight"}
    np.testing.assert_array_equal(back["net.fc.weight"].numpy(), weight.astype(np.float32))
    x = torch.randn(7, K)
    save_file({"x": x}, tmp_path / "x.safetensors")
    done = subprocess.run([build / "tests/quantized_linear_run", path, "net.fc", tmp_path / "x.safetensors", tmp_path / "y.safetensors"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "act order" in case:
        save_file({"x": x.bfloat16()}, tmp_path / "half.safetensors")
        subprocess.run([build / "tests/quantized_linear_run", path, "net.fc", tmp_path / "half.safetensors", tmp_path / "half_y.safetensors"], check=True)
        y, wanted = load_file(tmp_path / "half_y.safetensors")["y"].double(), x.bfloat16().double() @ torch.from_numpy(weight).T + bias.double()
        assert (y - wanted).norm() <= 1e-2 * wanted.norm()
    y, wanted = load_file(tmp_path / "y.safetensors")["y"].double(), x.double() @ torch.from_numpy(weight).T + bias.double()
    assert (y - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize("bits", [4, 8])
def test_mx_of_auto_round(aerogel, tmp_path, bits):
    rng = np.random.default_rng(1)
    scale = torch.from_numpy(rng.integers(120, 134, (N, K // 32)).astype(np.uint8))
    power = torch.exp2(scale.double() - 127).repeat_interleave(32, 1)
    if bits == 4:
        codes = torch.from_numpy(rng.integers(0, 16, (N, K)).astype(np.uint8))
        values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)[codes.long()]
        tensors = {"weight_packed": codes[:, ::2] | codes[:, 1::2] << 4, "weight_scale": scale}
    else:
        codes = torch.randn(N, K).to(torch.float8_e4m3fn)
        values, tensors = codes.double(), {"weight": codes, "weight_scale": scale}
    config = {"bits": bits, "group_size": 32, "data_type": "mx_fp", "quant_method": "auto-round"}
    path = write(tmp_path / "m", tensors, {"quantization_config": config}, "config.json")
    shown = json.loads(aerogel("inspect", path, "--json").stdout)
    assert [layer["scheme"] for layer in shown["layers"]] == [{4: "W4A4_MXFP4", 8: "W8A8_MXFP8"}[bits]]
    assert aerogel("dequantize", path, "-o", tmp_path / "f.safetensors").returncode == 0
    assert torch.equal(load_file(tmp_path / "f.safetensors")["net.fc.weight"].double(), values * power)
    if bits == 8:
        codes.view(torch.uint8)[3, 5] = 0xFF
        write(tmp_path / "m", tensors, {"quantization_config": config}, "config.json")
        done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
        assert done.returncode == 1 and "is not finite: element [3,5]" in done.stderr, done.stderr


def test_wrong_files_get_one_line(aerogel, tmp_path):
    codes = quantized(4, 64, True)
    good = gptq(*codes, 4, np.arange(K) // 64)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 64}
    cases = [({"g_idx": good["g_idx"] // 2}, {}, "g_idx' must be 64 columns in each of 4 groups, got 0 for column 64"),
             ({"g_idx": good["g_idx"] + 1}, {}, "got 4 for column 192"), ({"g_idx": good["g_idx"] - 1}, {}, "got -1 for column 0"),
             ({"g_idx": good["g_idx"][:9]}, {}, "g_idx' must be i32[256]"),
             ({}, {"bits": 3}, "bits must be 4 or 8"), ({}, {"bits": None}, "must be"), ({}, {"quant_method": "hqq"}, "quant_method must be"),
             ({}, {"group_size": 48}, "a multiple of 48 columns"), ({}, {"group_size": 0.5}, "group_size must be"),
             ({"scales": good["scales"][:1]}, {}, "scales' must be"), ({"scales": None}, {}, "scales' must be in the file"),
             ({"scales": good["scales"] * np.inf}, {}, "scale"), ({"qzeros": good["qzeros"][:, :2]}, {}, "qzeros' must be i32[4,6]"),
             ({"qzeros": None}, {}, "qzeros' must be in the file"), ({"qweight": good["qweight"][0]}, {}, "a matrix"),
             ({"qweight": good["qweight"].float()}, {}, "must be i32[32,48]"), ({"bias": torch.ones(3)}, {}, "bias"),
             ({}, {"extra_config": {"net.fc": {"bits": 8}}}, "extra_config.net.fc.bits must be 4, as of all other layers, got 8"),
             ({}, {"dynamic": {"+:fc": {"group_size": 32}}}, "group_size must be 64, as of all other layers"),
             ({}, {"quant_method": "awq", "version": "gemv"}, "version must be"), ({}, {"data_type": "nv_fp"}, "data_type must be"),
             ({}, {"quant_method": "auto-round", "packing_format": "auto_round:spin"}, "packing_format must be")]
    for change, settings, words_ in cases:
        tensors = {k: v.contiguous() for k, v in (good | change).items() if v is not None}
        path = write(tmp_path / "m", tensors, config | settings)
        done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
        assert done.returncode == 1 and words_ in done.stderr and done.stderr.count("\n") == 1, (words_, done.stderr)
    (tmp_path / "m/quantization_config.json").unlink()
    done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
    assert done.returncode == 1 and "has no quantization_config.json" in done.stderr
