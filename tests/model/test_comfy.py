"""Checkpoints of ComfyUI: every format beside a slow transcription of comfy-kitchen's formulas, the names of the models' own code, what we
write, and files that are wrong."""

import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file
from test_gguf import inputs_for, velocity, z_image

H4 = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2


def rotated(values, group):
    h = np.ones((1, 1))
    while len(h) < group:
        h = np.kron(h, H4)
    values = np.asarray(values, np.float64)
    return (values.reshape(*values.shape[:-1], -1, group) @ h).reshape(values.shape)


def rounded(values, top):
    """(integers, scales [rows, 1]) of the rows."""
    values = np.asarray(values, np.float32)
    scales = np.abs(values).max(-1, keepdims=True) / np.float32(top)
    return np.clip(np.rint(values / scales), -top, top).astype(np.float64), scales


def int8(weight, group=256):
    q, scale = rounded(rotated(weight, group) if group else weight, 127)
    return {"weight": torch.from_numpy(q.astype(np.int8)), "weight_scale": torch.from_numpy(scale)}


def int4(weight, group=256):
    q, scale = rounded(rotated(weight, group), 7)
    nibbles = q.astype(np.int32) & 15
    return {"weight": torch.from_numpy((nibbles[:, ::2] | nibbles[:, 1::2] << 4).astype(np.uint8).view(np.int8)),
            "weight_scale": torch.from_numpy(scale[:, 0])}


def fp8(weight, dtype=torch.float8_e4m3fn):
    scale = weight.abs().max() / torch.finfo(dtype).max
    return {"weight": (weight / scale).to(dtype), "weight_scale": scale}


def mxfp8(weight):
    """Rounded up to powers of two, scales in the order of cuBLAS."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows, -1, 32)
    exponent = torch.ceil(torch.log2(blocks.abs().amax(-1) / 448)).int()
    codes = (blocks / torch.exp2(exponent.float())[..., None]).reshape(rows, columns).to(torch.float8_e4m3fn)
    padded = torch.zeros((rows + 127) // 128 * 128, (columns // 32 + 3) // 4 * 4, dtype=torch.uint8)
    padded[:rows, :columns // 32] = (exponent + 127).to(torch.uint8)
    tiles = padded.view(len(padded) // 128, 128, -1, 4).permute(0, 2, 1, 3).reshape(-1, 4, 32, 4).transpose(1, 2)
    return {"weight": codes, "weight_scale": tiles.reshape(padded.shape).contiguous()}


def mark(**values):
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


def multiply(x, q, scale, group, top):
    x_q, s = rounded(rotated(x, group) if group else np.asarray(x, np.float64), top)
    return x_q @ q.T * s * scale.reshape(1, -1)


ROTATED = {"convrot": True, "convrot_groupsize": 256}
N, K = 160, 512


def layers():
    """name -> (tensors, y of x or a function of x)."""
    torch.manual_seed(1)
    weight = torch.randn(N, K)
    weight[:, ::37] *= 8
    w, out = weight.numpy(), {}
    unpacked = [rounded(rotated(w, group), 7) for group in (256, 64)]
    q8, plain = rounded(rotated(w, 256), 127), rounded(w, 127)
    one = np.float32(np.abs(w).max() / 127)
    exact = {k: f(weight) for k, f in (("fp8", fp8), ("mxfp8", mxfp8))}
    e5m2 = fp8(weight, torch.float8_e5m2)
    bias = torch.randn(N).bfloat16()
    out["int8"] = ({**int8(w), "bias": bias, "comfy_quant": mark(format="int8_tensorwise", **ROTATED)},
                   lambda x: multiply(x, *q8, 256, 127) + bias.double().numpy())
    out["params"] = ({**int8(w), "comfy_quant": mark(format="int8_tensorwise", params={"convrot": True}, orig_dtype="torch.bfloat16")},
                     lambda x: multiply(x, *q8, 256, 127))
    out["plain"] = ({**int8(w, 0), "comfy_quant": mark(format="int8_tensorwise", per_row=True)}, lambda x: multiply(x, *plain, 0, 127))
    out["scalar"] = ({"weight": torch.from_numpy(np.rint(w / one).astype(np.int8)), "weight_scale": torch.tensor(one),
                      "comfy_quant": mark(format="int8_tensorwise")}, lambda x: multiply(x, np.rint(w / one), np.full(N, one), 0, 127))
    out["int4"] = ({**int4(w, 64), "comfy_quant": mark(format="convrot_w4a4", convrot_groupsize=64, quant_group_size=64, linear_dtype="int4")},
                   lambda x: multiply(x, *unpacked[1], 64, 7))
    out["wide"] = ({**int4(w), "comfy_quant": mark(format="int4_convrot_w4a4", linear_dtype="int8")},
                   lambda x: multiply(x, *unpacked[0], 256, 127))
    out["fp8"] = ({**exact["fp8"], "input_scale": torch.tensor(0.5), "comfy_quant": mark(format="float8_e4m3fn")},
                  lambda x: x.double() @ (exact["fp8"]["weight"].double() * exact["fp8"]["weight_scale"]).T)
    out["e5m2"] = ({**e5m2, "comfy_quant": mark(format="float8_e5m2")}, lambda x: x.double() @ (e5m2["weight"].double() * e5m2["weight_scale"]).T)
    out["mxfp8"] = ({**exact["mxfp8"], "comfy_quant": mark(format="mxfp8")}, None)
    return weight, out


def write(path, named, prefix="model.diffusion_model.", **metadata):
    save_file({f"{prefix}{layer}.{part}": tensor.clone().contiguous() for layer, tensors in named.items() for part, tensor in tensors.items()},
              path, metadata=metadata or None)


@pytest.fixture(scope="module")
def run(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("x")

    def run(path, layer, x):
        save_file({"x": x}, folder / "x.safetensors")
        done = subprocess.run([build / "tests/quantized_linear_run", path, layer, folder / "x.safetensors", folder / "y.safetensors"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return load_file(folder / "y.safetensors")["y"]
    return run


TYPES = {"int8": "W8A8_DYNAMIC_CONVROT", "params": "W8A8_DYNAMIC_CONVROT", "plain": "W8A8_DYNAMIC", "scalar": "W8A8_DYNAMIC",
         "int4": "W4A4_DYNAMIC_CONVROT", "wide": "W4A8_CONVROT", "fp8": "W8A16_FP8", "e5m2": "W8A16_FP8_E5M2", "mxfp8": "W8A8_MXFP8"}


def test_every_format(aerogel, run, tmp_path):
    weight, formats = layers()
    path = tmp_path / "all.safetensors"
    write(path, {name: tensors for name, (tensors, _) in formats.items()} | {"norm": {"weight": torch.ones(4)}})
    x = torch.from_numpy(np.random.default_rng(3).integers(-60, 61, (37, K)).astype(np.float32) / 8)  # exact when rotated
    x[:, 7] *= 4
    for name, (_, wanted) in formats.items():
        y = run(path, name, x)
        if wanted is None:  # activations are rounded to MXFP8 as well
            assert np.linalg.norm(y - (x @ weight.T).numpy()) < 0.06 * np.linalg.norm(y), name
            continue
        wanted = np.asarray(wanted(x))
        assert np.linalg.norm(y - wanted) <= 2e-6 * np.linalg.norm(wanted), name

    shown = json.loads(aerogel("inspect", path, "--json").stdout)
    assert shown["program"] == "ComfyUI" and shown["kind"] == "quantized" and shown["problems"] == []
    assert {layer["name"]: layer["scheme"] for layer in shown["layers"]} == TYPES
    assert all(layer["shape"] == [N, K] for layer in shown["layers"])
    assert "quantized checkpoint as ComfyUI has them" in aerogel("inspect", path).stdout

    assert aerogel("dequantize", path, "-o", tmp_path / "f.safetensors").returncode == 0
    back = load_torch(tmp_path / "f.safetensors")
    assert set(back) == {f"model.diffusion_model.{name}.weight" for name in [*formats, "norm"]} | {"model.diffusion_model.int8.bias"}
    for name in formats:
        error = (back[f"model.diffusion_model.{name}.weight"] - weight).norm() / weight.norm()
        assert error < {"int4": 0.2, "wide": 0.2, "e5m2": 0.08, "scalar": 0.06}.get(name, 0.04), name


def test_metadata_and_older_files_say_the_same(aerogel, run, tmp_path):
    _, formats = layers()
    x = torch.randn(5, K)
    write(tmp_path / "marked.safetensors", {"int8": formats["int8"][0], "fp8": formats["fp8"][0]})
    unmarked = {name: {k: v for k, v in formats[name][0].items() if k != "comfy_quant"} for name in ("int8", "fp8")}
    int4_marked = int4(layers()[0].numpy()) | {"comfy_quant": mark(format="convrot_w4a4")}
    write(tmp_path / "int4.safetensors", {"int4": int4_marked})
    unmarked["int4"] = {k: v for k, v in int4_marked.items() if k != "comfy_quant"}
    described = {"int8": {"format": "int8_tensorwise", **ROTATED}, "fp8": "float8_e4m3fn", "int4": "convrot_w4a4"}
    write(tmp_path / "described.safetensors", unmarked, _quantization_metadata=json.dumps({"format_version": "1.0", "layers": described}))
    old = {k.replace("weight_scale", "scale_weight").replace("input_scale", "scale_input"): v for k, v in unmarked["fp8"].items()}
    save_file({f"fp8.{k}": v for k, v in old.items()} | {"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "old.safetensors")
    for name, files in (("int8", ["described"]), ("fp8", ["described", "old"])):
        wanted = run(tmp_path / "marked.safetensors", name, x)
        for file in files:
            assert np.array_equal(run(tmp_path / f"{file}.safetensors", name, x), wanted), (name, file)
    assert np.array_equal(run(tmp_path / "described.safetensors", "int4", x), run(tmp_path / "int4.safetensors", "int4", x))
    assert json.loads(aerogel("inspect", tmp_path / "old.safetensors", "--json").stdout)["float_tensors"] == []


def test_names_of_the_models_own_code(aerogel, tmp_path):
    """A fused projection of queries, keys and values comes apart: as the same rows under diffusers' names."""
    model, original, convert = z_image()
    model.save_pretrained(tmp_path / "model")

    def quantized(state):
        tensors = {}
        for name, tensor in state.items():
            layer = name.removesuffix(".weight")
            if name.startswith("layers.") and tensor.ndim == 2 and tensor.shape[1] % 64 == 0 and "adaLN" not in name:
                parts = int8(tensor.numpy(), 64) | {"comfy_quant": mark(format="int8_tensorwise", convrot=True, convrot_groupsize=64)}
                tensors |= {f"{layer}.{part}": value for part, value in parts.items()}
            else:
                tensors[name] = tensor.clone().contiguous()
        return tensors

    ours = quantized(dict(model.state_dict()))
    theirs = {f"model.diffusion_model.{k}": v for k, v in quantized(original).items()}
    assert sum(k.endswith("comfy_quant") for k in ours) == 3 * sum("qkv.comfy_quant" in k for k in theirs) + sum(
        "qkv" not in k and k.endswith("comfy_quant") for k in theirs)
    save_file(ours, tmp_path / "ours.safetensors")
    save_file(theirs, tmp_path / "theirs.safetensors")
    inputs = inputs_for("z_image", tmp_path / "in.safetensors")
    exact = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "o.safetensors")
    a, b = (velocity(aerogel, tmp_path / "model", inputs, tmp_path / "o.safetensors", "--transformer", tmp_path / f"{name}.safetensors")
            for name in ("ours", "theirs"))
    assert np.array_equal(a, b)
    a, b = (velocity(aerogel, tmp_path / "model", inputs, tmp_path / "o.safetensors", "--quantized", tmp_path / f"{name}.safetensors")
            for name in ("ours", "theirs"))
    assert np.array_equal(a, b)
    assert 0 < np.linalg.norm(a - exact) < 0.05 * np.linalg.norm(exact)


def test_what_we_write(aerogel, tmp_path):
    model, _, _ = z_image()
    model.save_pretrained(tmp_path / "model")
    state = load_torch(tmp_path / "model/diffusion_pytorch_model.safetensors")
    inputs = inputs_for("z_image", tmp_path / "in.safetensors")
    out = tmp_path / "q.safetensors"
    cases = [("W8A8_DYNAMIC", ("--rotate", "convrot"), {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64}),
             ("W4A4_DYNAMIC", ("--rotate", "convrot:16"),
              {"format": "convrot_w4a4", "convrot_groupsize": 16, "quant_group_size": 64, "linear_dtype": "int4"}),
             ("W8A8_DYNAMIC", (), {"format": "int8_tensorwise"}), ("W8A16_FP8", (), {"format": "float8_e4m3fn"}),
             ("W8A8_MXFP8", (), {"format": "mxfp8"})]
    for scheme, flags, expected in cases:
        done = aerogel("quantize", tmp_path / "model", "-o", out, "--layout", "comfy", "--scheme", scheme, "--include", "layers.*.attention.*",
                       *flags, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["layout"] == "comfy" and "diffusers" in report["notes"][0]
        stored = load_torch(out)
        names = [layer["name"] for layer in report["layers"]]
        for name in names:
            parts = {k.removeprefix(f"{name}."): v for k, v in stored.items() if k.startswith(f"{name}.")}
            assert json.loads(bytes(parts.pop("comfy_quant").numpy())) == expected
            weight = state[f"{name}.weight"]
            wanted = {"int8_tensorwise": lambda: int8(weight.numpy(), expected.get("convrot_groupsize", 0)),
                      "convrot_w4a4": lambda: int4(weight.numpy(), 16), "float8_e4m3fn": lambda: fp8(weight),
                      "mxfp8": lambda: parts}[expected["format"]]()
            assert parts.keys() == wanted.keys()
            for part, value in wanted.items():
                assert parts[part].dtype == value.dtype and parts[part].shape == value.shape, (name, part)
                off = (parts[part].float() - value.float()).abs()
                if part == "weight":  # float32 rounds to the other side of a tie now and then
                    assert (off != 0).float().mean() < 1e-3
                elif part == "weight_scale":
                    assert (off <= 1e-6 * value.float().abs()).all()
        assert all(torch.equal(stored[k], v) for k, v in state.items() if k.removesuffix(".weight") not in names)
        by_file, as_pair = (velocity(aerogel, tmp_path / "model", inputs, tmp_path / "o.safetensors", flag, out)
                            for flag in ("--transformer", "--quantized"))
        assert np.array_equal(by_file, as_pair)
        if "FP8" not in scheme:
            online = velocity(aerogel, tmp_path / "model", inputs, tmp_path / "o.safetensors", "--online", scheme, "--include",
                              "layers.*.attention.*", "--group-size", 0, *flags)
            assert np.array_equal(online, by_file), scheme

    for flags, words in [(("--scheme", "W8A16"), "ComfyUI has no form of this scheme"), (("--scheme", "W4A4_DYNAMIC"), "needs --rotate convrot"),
                         (("--scheme", "W8A8_DYNAMIC", "--rotate", 16), "its rotation is --rotate convrot"),
                         (("--scheme", "W8A8_DYNAMIC", "--rotate", "convrot:32"), "a power of four"),
                         (("--scheme", "W8A8_DYNAMIC", "--rotate", "spin"), "convrot or convrot:COLUMNS, got 'spin'"),
                         (("--scheme", "W8A8_DYNAMIC", "--rotate", "convrot:0"), "convrot or convrot:COLUMNS, got 'convrot:0'"),
                         (("--scheme", "W8A8_DYNAMIC_CONVROT", "--rotate", 64), "is rotated by convrot, but the rotation asked for is hadamard"),
                         (("--scheme", "W8A8_DYNAMIC_ROTATED", "--rotate", "convrot"), "is rotated by hadamard, but")]:
        done = aerogel("quantize", tmp_path / "model", "-o", tmp_path / "no.safetensors", "--layout", "comfy", "--include", "layers.*.attention.*",
                       *flags)
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "no.safetensors").exists()


def test_one_file(aerogel, tmp_path):
    """Names in capitals, ranks, columns that ComfyUI does not rotate, and a file that is quantized already."""
    weights = {"a.weight": torch.randn(8, 64), "b.weight": torch.randn(8, 72)}
    save_file(weights, tmp_path / "model.SafeTensors")
    flags = ("--scheme", "W8A8_DYNAMIC", "--layout", "comfy", "--rotate", "convrot", "--include", "*", "--rank", 1, "--json")
    done = aerogel("quantize", tmp_path / "model.SafeTensors", "-o", tmp_path / "q.SAFETENSORS", *flags)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["notes"] == ["b stays float: no power of four from 16 on divides its 72 columns"]
    assert [layer["name"] for layer in report["layers"]] == ["a"]
    path = tmp_path / "q_1.SAFETENSORS"
    stored = load_torch(path)
    assert torch.equal(stored["b.weight"], weights["b.weight"]) and "a.comfy_quant" in stored
    assert json.loads(aerogel("inspect", path, "--json").stdout)["program"] == "ComfyUI"
    done = aerogel("quantize", path, "-o", tmp_path / "again", "--scheme", "W8A16", "--include", "*")
    assert done.returncode == 1 and "is already quantized by ComfyUI; dequantize it first" in done.stderr, done.stderr
    save_file(stored | {"c.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}, path)
    shown = json.loads(aerogel("inspect", path, "--json").stdout)
    assert [p for p in shown["problems"] if "'c.weight' f8_e4m3[2,2] is of no layer" in p], shown
    done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
    assert done.returncode == 1 and "'c.weight' f8_e4m3[2,2] is of no layer" in done.stderr, done.stderr


def test_wrong_files_get_one_line(aerogel, tmp_path):
    good = layers()[1]["int8"][0]
    path = tmp_path / "bad.safetensors"
    scale = good["weight_scale"]
    cases = [({"comfy_quant": mark(format="nvfp4")}, "nvfp4, which is not supported; there are: int8_tensorwise"),
             ({"comfy_quant": mark(form="int8_tensorwise")}, "format must be"),
             ({"comfy_quant": torch.tensor([123], dtype=torch.uint8)}, "comfy_quant"),
             ({"comfy_quant": torch.zeros(3, 2)}, "the bytes of a JSON object"),
             ({"comfy_quant": mark(format="int8_tensorwise", convrot=True, convrot_groupsize=128)}, "a power of four that divides the 512 columns"),
             ({"comfy_quant": mark(format="int8_tensorwise", convrot=1)}, "convrot must be"),
             ({"weight": good["weight"].float()}, "must be i8[160,512]"), ({"weight": good["weight"][0]}, "a matrix"),
             ({"weight_scale": scale[:7]}, "or one value"), ({"weight_scale": scale * np.nan}, "weight_scale"),
             ({"weight_scale": None}, "weight_scale' must be in the file"), ({"bias": torch.ones(3)}, "bias"),
             ({"weight": None}, "weight' must be in the file")]
    for change, words in cases:
        tensors = {k: v for k, v in (good | change).items() if v is not None}
        write(path, {"fc": tensors})
        done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
        assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, (words, done.stderr)
        assert "bad.safetensors" in done.stderr
    for dtype, place in ((torch.float8_e4m3fn, 0x7F), (torch.float8_e5m2, 0x7C)):
        name = "float8_e4m3fn" if dtype == torch.float8_e4m3fn else "float8_e5m2"
        tensors = fp8(layers()[0], dtype)
        tensors["weight"].view(torch.uint8)[1, 2] = place
        write(path, {"fc": tensors | {"comfy_quant": mark(format=name)}})
        done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
        assert done.returncode == 1 and "is not finite: element [1,2]" in done.stderr, done.stderr
    write(path, {"fc": {"weight": torch.ones(2, 2)}})
    done = aerogel("dequantize", path, "-o", tmp_path / "no.safetensors")
    assert done.returncode == 1 and "is no quantized checkpoint" in done.stderr
