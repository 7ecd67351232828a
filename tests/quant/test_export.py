"""Quantized files equal, tensor for tensor and byte for byte, what an independent implementation of the format writes."""
import json

import pytest
import torch
from format_reference import quantize_model, raw, write_stats
from safetensors.torch import load_file, save_file
from small_model import LAYERS

SCHEMES = ["W8A16", "W8A8_DYNAMIC", "W8A8", "W8A8_TIMESTEP"]


def quantize(aerogel, model, folder, scheme, *options):
    done = aerogel("quantize", model, "-o", folder, "--scheme", scheme, *options)
    assert done.returncode == 0, done.stderr
    return done


def layout_of(scheme):
    """What is written when nothing is said."""
    return "v0" if scheme == "W8A8_TIMESTEP" else "v1"


def check_pair(folder, scheme, tensors, types, *, suffix="", layout=None):
    """Every tensor's dtype, shape and bytes; the description's keys and values, its form and order."""
    name = scheme.lower() + suffix
    assert sorted(p.name for p in folder.iterdir()) == [
        f"quant_model_description_{name}.json", f"quant_model_weight_{name}.safetensors"]
    written = load_file(folder / f"quant_model_weight_{name}.safetensors")
    assert written.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert raw(written[key]) == raw(tensor), key
    text = (folder / f"quant_model_description_{name}.json").read_text()
    description = json.loads(text)
    v0 = (layout or layout_of(scheme)) == "v0"
    assert list(description.items())[0 if v0 else -1] == ("model_quant_type", scheme)
    assert description == {"model_quant_type": scheme, **types}
    assert text == json.dumps(description, indent=2 if v0 else 4)
    for layer in {k.removesuffix(".weight") for k, v in types.items() if k.endswith(".weight") and v != "FLOAT"}:
        order = [k for k in tensors if k.rpartition(".")[0] == layer]
        if v0 and f"{layer}.bias" in order:  # the older form has the bias behind the weight
            order.insert(1, order.pop(order.index(f"{layer}.bias")))
        assert [k for k in description if k.rpartition(".")[0] == layer] == order


def reference(state, layers, scheme, stats=None, layout=None):
    return quantize_model(state, layers, scheme, stats, layout or layout_of(scheme))


@pytest.mark.parametrize("form", [(scheme, layout) for scheme in SCHEMES for layout in ("v0", "v1")], ids=str)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_bytes(aerogel, float_model, tmp_path, form, dtype):
    scheme, layout = form
    folder, state = float_model(dtype)
    stats, options = None, ["--layout", layout]
    if scheme in ("W8A8", "W8A8_TIMESTEP"):
        stats = write_stats(tmp_path / "stats.safetensors", LAYERS, steps=5)
        options += ["--calibration", tmp_path / "stats.safetensors"]
    if (scheme, layout) == ("W8A8_TIMESTEP", "v1"):
        done = aerogel("quantize", folder, "-o", tmp_path / "out", "--scheme", scheme, *options)
        assert done.returncode == 1 and "layout v1 has no form of W8A8_TIMESTEP: choose v0" in done.stderr
        return
    quantize(aerogel, folder, tmp_path / "out", scheme, *options)
    check_pair(tmp_path / "out", scheme, *reference(state, LAYERS, scheme, stats, layout), layout=layout)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_default_layout(aerogel, float_model, tmp_path, scheme):
    folder, state = float_model("bf16")
    stats = write_stats(tmp_path / "stats.safetensors", LAYERS, steps=5)
    options = ["--calibration", tmp_path / "stats.safetensors"] if scheme in ("W8A8", "W8A8_TIMESTEP") else []
    report = json.loads(quantize(aerogel, folder, tmp_path / "out", scheme, *options, "--json").stdout)
    assert report["layout"] == layout_of(scheme)
    check_pair(tmp_path / "out", scheme, *reference(state, LAYERS, scheme, stats))


def test_reference_is_sensitive(float_model):
    """In bfloat16 the rounding after each operation matters: float32 arithmetic gives other bytes."""
    _, state = float_model("bf16")
    exact, _ = quantize_model({k: v.float() for k, v in state.items()}, LAYERS, "W8A8_DYNAMIC")
    rounded, _ = quantize_model(state, LAYERS, "W8A8_DYNAMIC")
    assert sum(int((exact[f"{n}.weight"] != rounded[f"{n}.weight"]).sum()) for n in LAYERS) > 100


def test_the_lowest_weight(aerogel, float_model, tmp_path):
    """bfloat16 scales can be too small by half a percent; quotients of -127.5 become -127 in the older form and -128 in the newer."""
    folder, _ = float_model("bf16")
    for layout, lowest in (("v0", -127), ("v1", -128)):
        quantize(aerogel, folder, tmp_path / layout, "W8A16", "--layout", layout)
        written = load_file(tmp_path / layout / "quant_model_weight_w8a16.safetensors")
        assert min(int(written[f"{n}.weight"].min()) for n in LAYERS) == lowest


def test_include_exclude_and_rank(aerogel, float_model, tmp_path):
    folder, state = float_model("f32")
    quantize(aerogel, folder, tmp_path, "W8A16", "--include", "blocks.*.{ffn,attn2}.*", "--include", "proj_out",
             "--exclude", "*.to_[qk]", "--exclude", "blocks.1.ffn.net.?", "--rank", "3")
    layers = [f"blocks.{i}.attn2.{p}" for i in (0, 1) for p in ("to_v", "to_out.0")] + [
        "blocks.0.ffn.net.0.proj", "blocks.0.ffn.net.2", "blocks.1.ffn.net.0.proj", "proj_out"]
    check_pair(tmp_path, "W8A16", *reference(state, layers, "W8A16"), suffix="_3")


def test_sharded_model(aerogel, float_model, tmp_path):
    """Shards joined by an index, in a pipeline folder, give the same files."""
    _, state = float_model("bf16")
    home = tmp_path / "model/transformer"
    home.mkdir(parents=True)
    parts = {f"diffusion_pytorch_model-0000{i + 1}-of-00003.safetensors": sorted(state)[i::3] for i in range(3)}
    for name, keys in parts.items():
        save_file({k: state[k] for k in keys}, home / name)
    index = {"metadata": {}, "weight_map": {k: name for name, keys in parts.items() for k in keys}}
    (home / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    quantize(aerogel, tmp_path / "model", tmp_path / "out", "W8A8_DYNAMIC")
    check_pair(tmp_path / "out", "W8A8_DYNAMIC", *reference(state, LAYERS, "W8A8_DYNAMIC"))


def test_odd_sizes_stay_aligned(aerogel, tmp_path):
    """Tensors of odd byte counts must not push the next one off its alignment."""
    state = {"a.weight": torch.randn(3, 5), "a.bias": torch.randn(3), "b.weight": torch.randn(7, 1), "c": torch.zeros(3).bfloat16(),
             "empty": torch.zeros(0, 4), "d.weight": torch.randn(1, 1), "scalar": torch.tensor(2.5)}
    save_file(state, tmp_path / "m.safetensors")
    stats = write_stats(tmp_path / "stats.safetensors", "abd", steps=3)
    for scheme in SCHEMES:
        options = ["--calibration", tmp_path / "stats.safetensors"] if scheme in ("W8A8", "W8A8_TIMESTEP") else []
        quantize(aerogel, tmp_path / "m.safetensors", tmp_path / scheme, scheme, "--include", "*", *options)
        check_pair(tmp_path / scheme, scheme, *reference(state, "abd", scheme, stats))
        data = (tmp_path / scheme / f"quant_model_weight_{scheme.lower()}.safetensors").read_bytes()
        length = int.from_bytes(data[:8], "little")
        assert length % 8 == 0
        for name, info in json.loads(data[8 : 8 + length]).items():
            size = {"I8": 1, "BF16": 2, "F32": 4, "I32": 4, "I64": 8}[info["dtype"]]
            assert info["data_offsets"][0] % size == 0, name


def test_report(aerogel, float_model, tmp_path):
    folder, state = float_model("f32")
    report = json.loads(quantize(aerogel, folder, tmp_path, "w8a8_dynamic", "--json").stdout)
    assert report["scheme"] == "W8A8_DYNAMIC" and [x["name"] for x in report["layers"]] == sorted(LAYERS)
    assert report["bytes_before"] == sum(v.numel() * 4 for v in state.values())
    written = load_file(report["weights"])
    assert report["bytes_after"] == sum(v.numel() * v.element_size() for v in written.values())
    name = LAYERS[0]
    weight, decoded = state[f"{name}.weight"], written[f"{name}.weight"] * written[f"{name}.weight_scale"]
    wanted = float((decoded.double() - weight.double()).norm() / weight.double().norm())
    assert next(x["relative_error"] for x in report["layers"] if x["name"] == name) == pytest.approx(wanted, rel=1e-5)


def test_failure_leaves_the_old_pair(aerogel, float_model, tmp_path):
    """A model with a NaN is refused by the layer's name, and a pair written before stays as it was."""
    folder, state = float_model("f32")
    quantize(aerogel, folder, tmp_path / "out", "W8A16")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    state = {k: v.clone() for k, v in state.items()}
    state["blocks.1.ffn.net.2.weight"][5, 6] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    done = aerogel("quantize", tmp_path / "nan.safetensors", "-o", tmp_path / "out", "--scheme", "W8A16")
    assert done.returncode == 1 and "blocks.1.ffn.net.2" in done.stderr and "element [5,6] is nan" in done.stderr
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
