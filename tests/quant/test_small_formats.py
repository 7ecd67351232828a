"""Every four- and eight-bit scheme: exported bytes, loading, running, dequantizing and inspecting against the NumPy writer."""
import json
import subprocess

import numpy as np
import pytest
import torch
from format_reference import raw, write_pair
from safetensors.torch import load_file, save_file
from small_formats import GROUPED, SCHEMES, decode, layer_tensors, run
from small_model import LAYERS

N, K = 24, 1088  # three dual blocks, the last one short
VARIANTS = [(s, {}) for s in SCHEMES] + [(s, {"group": g}) for s in GROUPED for g in (32, 64)]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def matrix(n=N, k=K, seed=0, dtype=torch.float32):
    """Rows of many sizes, zeros, ties and a row of zeros."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n, k)) * np.exp2(rng.integers(-9, 5, (n, 1)))
    w = np.where(rng.random(w.shape) < 0.3, np.round(w * 16) / 16, w)
    w[rng.random(w.shape) < 0.1] = 0
    w[3] = 0
    return torch.from_numpy(w).to(dtype)


def activations(seed=1, dtype=torch.float32):
    """Normal rows, ties, tiny and huge values, zeros, blocks of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, K)) * 3
    x[1] = np.round(x[1] * 4) / 4
    x[2] *= 1e-30
    x[3] = 0
    x[4] *= 1e28
    x[5, 32:64] = 0
    x[6] *= np.exp2(rng.integers(-20, 20, K))
    x[7, :512] = rng.choice([0.25, 0.75, -1.25, 1.75, -2.5, 3.5, -5, 6], 512)
    x[8, 1:] = 0
    return torch.from_numpy(x).to(dtype)


def named(tensors):
    return {k.rpartition(".")[2]: v for k, v in tensors.items()}


def types_of(tensors, scheme):
    return {k: "FLOAT" if k.endswith((".bias", ".mul_scale")) else scheme for k in tensors}


def make(folder, scheme, seed=0, mul_scale=None, with_bias=True, **options):
    prefix = "net.fc.linear" if mul_scale is not None else "net.fc"
    bias = torch.from_numpy(np.random.default_rng(seed + 9).standard_normal(N)).float() if with_bias else None
    tensors = layer_tensors(prefix, matrix(seed=seed), bias, scheme, **options)
    plain = named(layer_tensors(prefix, matrix(seed=seed), bias, scheme, **{**options, "packed": False}))
    if mul_scale is not None:
        tensors["net.fc.div.mul_scale"] = torch.from_numpy(mul_scale)
    return write_pair(folder, scheme, tensors, types_of(tensors, scheme)), plain


@pytest.fixture
def run_layer(build, tmp_path):
    def call(description, x):
        save_file({"x": x}, tmp_path / "x.safetensors")
        command = [build / "tests/quantized_linear_run", description, "net.fc", tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / "y.safetensors")["y"]

    return call


def check(y, wanted, error, dtype):
    """In bfloat16 the result is rounded once more."""
    if dtype == torch.float32 and np.isscalar(error):
        np.testing.assert_array_equal(y.numpy(), wanted)
        return
    slack = error if dtype == torch.float32 else error + np.abs(wanted) * 2.0**-8 + 1e-38
    assert (np.abs(y.double().numpy() - wanted) <= slack).all()


@pytest.mark.parametrize("scheme,options", VARIANTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_runs(run_layer, tmp_path, scheme, options, dtype):
    x = activations(dtype=dtype)
    for seed, smoothed in ((0, False), (1, True)):
        mul_scale = np.exp2(np.random.default_rng(7).integers(-2, 3, K)).astype(np.float32) if smoothed else None
        path, tensors = make(tmp_path / str(seed), scheme, seed, mul_scale, with_bias=not smoothed, **options)
        wanted, error = run(tensors, scheme, x, mul_scale, options.get("group", 0))
        check(run_layer(path, x), wanted, error, dtype)


@pytest.mark.parametrize("scheme", [s for s in SCHEMES if SCHEMES[s][1] is not None])
def test_rows_that_are_not_finite_give_nans_alone(run_layer, tmp_path, scheme):
    path, tensors = make(tmp_path, scheme)
    x = activations()
    wanted = run_layer(path, x)
    for row, value in ((1, float("nan")), (5, float("inf"))):
        x[row, K - 1] = value
    y = run_layer(path, x)
    assert y[[1, 5]].isnan().all()
    rest = [i for i in range(len(x)) if i not in (1, 5)]
    assert torch.equal(y[rest], wanted[rest])


@pytest.mark.parametrize("scheme,options", VARIANTS + [("W4A16", {"packed": True}), ("W4A16", {"packed": True, "group": 64}),
                                                       ("W4A16", {"symmetric": False}), ("W4A16", {"symmetric": False, "group": 32})], ids=str)
def test_dequantize_and_inspect(aerogel, tmp_path, scheme, options):
    path, tensors = make(tmp_path, scheme, **options)
    done = aerogel("dequantize", path, "-o", tmp_path / "f.safetensors")
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "f.safetensors")
    assert sorted(out) == ["net.fc.bias", "net.fc.weight"]
    np.testing.assert_array_equal(out["net.fc.weight"].numpy(), decode(tensors, SCHEMES[scheme][0]))
    report = json.loads(aerogel("inspect", path, "--json").stdout)
    layer = report["layers"][0]
    assert report["problems"] == [] and report["float_tensors"] == [] and layer["runs"] and layer["shape"] == [N, K]
    stored = load_file(tmp_path / f"quant_model_weight_{scheme.lower()}.safetensors")
    size = sum(v.numel() * v.element_size() for v in stored.values())
    assert layer["bytes"] == size and report["bits_per_weight"] == pytest.approx(8 * size / (N * K))


PER_ROW = ["--group-size", 0]
EXPORTS = [(s, {}, PER_ROW if s in ("W4A16", "W4A8", "W4A4_DYNAMIC") else []) for s in SCHEMES] + [(s, {"group": 32}, ["--group-size", 32]) for s in GROUPED] + [
    ("W4A16", {"layout": "v0"}, ["--layout", "v0"]), ("W4A16", {"layout": "v0", "group": 32}, ["--layout", "v0", "--group-size", 32]),
    ("W4A16", {"packed": True}, ["--packed", *PER_ROW]), ("W4A16", {"packed": True, "group": 32}, ["--packed", "--group-size", 32]),
    ("W4A16", {"symmetric": False}, ["--asymmetric", *PER_ROW]), ("W4A16", {"symmetric": False, "group": 32}, ["--asymmetric", "--group-size", 32])]


@pytest.mark.parametrize("case", EXPORTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exported_bytes(aerogel, float_model, tmp_path, case, dtype):
    scheme, options, flags = case
    folder, state = float_model(dtype)
    done = aerogel("quantize", folder, "-o", tmp_path, "--scheme", scheme, *flags)
    assert done.returncode == 0, done.stderr
    tensors = {}
    for name in LAYERS:
        tensors |= layer_tensors(name, state[f"{name}.weight"], state[f"{name}.bias"], scheme, **options)
    types = types_of(tensors, scheme)
    rest = {k: v for k, v in state.items() if k.rpartition(".")[0] not in LAYERS}
    written = load_file(tmp_path / f"quant_model_weight_{scheme.lower()}.safetensors")
    assert written.keys() == {**tensors, **rest}.keys()
    for key, value in {**tensors, **rest}.items():
        assert raw(written[key]) == raw(value), key
    description = json.loads((tmp_path / f"quant_model_description_{scheme.lower()}.json").read_text())
    if options.get("layout") != "v0":
        assert [k for k in description if k.startswith(f"{LAYERS[0]}.")] == [k for k in tensors if k.startswith(f"{LAYERS[0]}.")]
    assert description == {"model_quant_type": scheme, **types, **{k: "FLOAT" for k in rest}}


def test_whole_models_run(aerogel, build, float_model, tmp_path):
    """quantize(model) of an export of each scheme; the packed form of four bits is settled by the model's shapes."""
    folder, _ = float_model("f32")
    for scheme in SCHEMES:
        flags = ["--packed"] if scheme in ("W4A16", "W4A8", "W4A4_DYNAMIC") else []
        assert aerogel("quantize", folder, "-o", tmp_path / scheme, "--scheme", scheme, *flags).returncode == 0
        done = subprocess.run([build / "tests/quantize_model", folder, tmp_path / scheme], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count(f" {scheme} ") == len(LAYERS), done.stderr


def test_integer8_groups_and_offsets(aerogel, tmp_path):
    """W8A16 takes the same options."""
    from small_formats import integers

    w = matrix(8, 128, seed=3)
    save_file({"fc.weight": w}, tmp_path / "m.safetensors")
    for flags, options in ((["--asymmetric"], {"symmetric": False}), (["--group-size", 64], {"group": 64}),
                           (["--asymmetric", "--group-size", 64], {"symmetric": False, "group": 64})):
        assert aerogel("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "o", "--scheme", "INT8", "--include", "*", *flags).returncode == 0
        written = load_file(tmp_path / "o/quant_model_weight_w8a16.safetensors")
        for name, wanted in zip(("weight", "weight_scale", "weight_offset"), integers(w, 8, **options)):
            assert raw(written[f"fc.{name}"]) == raw(wanted), (flags, name)


# --- layouts by hand: q = [[0, 1, -8, 7], [2, -1, 3, -4]] --------------------------------------------------
Q = np.array([[0, 1, -8, 7], [2, -1, 3, -4]], np.float32)
HAND = {
    "bytes": torch.tensor([[0, 1, -8, 7], [2, -1, 3, -4]], dtype=torch.int8),
    "columns": torch.tensor([[0x10, 0x78], [0xF2 - 256, 0xC3 - 256]], dtype=torch.int8),
    "columns_u8": torch.tensor([[0x10, 0x78], [0xF2, 0xC3]], dtype=torch.uint8),
    "rows": torch.tensor([[0x20, 0xF1 - 256, 0x38, 0xC7 - 256]], dtype=torch.int8),
}


def restored(aerogel, folder, scheme, tensors):
    path = write_pair(folder, scheme, tensors, types_of(tensors, scheme))
    done = aerogel("dequantize", path, "-o", folder / "f.safetensors")
    assert done.returncode == 0, done.stderr
    return load_file(folder / "f.safetensors")["fc.weight"].numpy()


@pytest.mark.parametrize("layout", HAND)
@pytest.mark.parametrize("scheme", ["W4A16", "W4A8", "W4A4_DYNAMIC", "W4A16_GPTQ", "W4A16_AWQ", "W4A8_AWQ", "INT4"])
def test_int4_layouts(aerogel, tmp_path, layout, scheme):
    tensors = {"fc.weight": HAND[layout], "fc.weight_scale": torch.tensor([[0.5], [2.0]])}
    np.testing.assert_array_equal(restored(aerogel, tmp_path, scheme, tensors), Q * [[0.5], [2]])


def test_groups_and_offsets_by_hand(aerogel, tmp_path):
    tensors = {"fc.weight": HAND["rows"], "fc.weight_scale": torch.tensor([[0.5, 1], [2, 4]]), "fc.weight_offset": torch.tensor([[0.0, 1], [-1, 0]])}
    np.testing.assert_array_equal(restored(aerogel, tmp_path, "W4A16", tensors), [[0, 0.5, -9, 6], [6, 0, 12, -16]])


def test_w4a8_of_the_other_exporter(aerogel, tmp_path):
    """Pairs of rows beside a scale per row, and a correction that nobody needs here."""
    tensors = {"fc.weight": HAND["rows"], "fc.weight_scale": torch.tensor([[0.5], [2.0]]), "fc.weight_offset": torch.zeros(2, 1),
               "fc.scale_bias": torch.ones(2, 1)}
    np.testing.assert_array_equal(restored(aerogel, tmp_path, "W4A8_DYNAMIC", tensors), Q * [[0.5], [2]])
    report = json.loads(aerogel("inspect", tmp_path / "quant_model_description_w4a8_dynamic.json", "--json").stdout)
    assert report["problems"] == [] and report["float_tensors"] == []


@pytest.mark.parametrize("form", ["packed", "packed_i8", "numbers", "e8m0"])
def test_mxfp4_forms(aerogel, tmp_path, form):
    """0 .5 1 1.5 2 3 4 6 and their negatives: codes 0 .. 15, times 2^(130-127) and 2^(125-127)."""
    values = np.tile(np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32), 4)[None]
    packed = torch.tensor([[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 4], dtype=torch.uint8)
    weight = torch.from_numpy(values).to(torch.float8_e4m3fn) if form == "numbers" else packed
    scale = torch.tensor([[130, 125]], dtype=torch.uint8)
    tensors = {"fc.weight": weight.view(torch.int8) if form == "packed_i8" else weight,
               "fc.weight_scale": scale.view(torch.float8_e8m0fnu) if form == "e8m0" else scale}
    wanted = values * np.repeat([8.0, 0.25], 32)
    np.testing.assert_array_equal(restored(aerogel, tmp_path, "W4A4_MXFP4", tensors), wanted)
    tensors["fc.weight_dual_scale"] = torch.tensor([[[3.0]]])
    np.testing.assert_array_equal(restored(aerogel, tmp_path / "dual", "W4A4_MXFP4_DUALSCALE", tensors), wanted * 3)


@pytest.mark.parametrize("columns,block", [(1024, 32), (1024, 128), (1024, 256), (1024, 1024), (96, 96), (1088, 512), (2048, 1024)])
def test_dual_scales_of_any_block(aerogel, build, tmp_path, columns, block):
    """msModelSlim's ext.dual_block_size shows in the shape only. The layer computes what its weight as a plain matrix does, with inputs whose blocks quantization leaves as they are."""
    rng = np.random.default_rng(block)
    codes = rng.integers(0, 256, (6, columns // 2)).astype(np.uint8)
    values = np.stack([codes & 15, codes >> 4], axis=2).reshape(6, columns)
    numbers = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)[values]
    dual = 2.0 ** rng.integers(-3, 4, (6, -(-columns // block), 1)).astype(np.float32)
    tensors = {"fc.weight": torch.from_numpy(codes), "fc.weight_scale": torch.full((6, columns // 32), 128, dtype=torch.uint8), "fc.weight_dual_scale": torch.from_numpy(dual)}
    wanted = numbers * 2 * np.repeat(dual[..., 0], block, axis=1)[:, :columns]
    np.testing.assert_array_equal(restored(aerogel, tmp_path, "W4A4_MXFP4_DUALSCALE", tensors), wanted)
    x = np.where(rng.integers(0, 2, (3, columns)), 6.0, -6.0).astype(np.float32)
    save_file({"x": torch.from_numpy(x)}, tmp_path / "x.safetensors")
    path = tmp_path / "quant_model_description_w4a4_mxfp4_dualscale.json"
    done = subprocess.run([build / "tests/quantized_linear_run", path, "fc", tmp_path / "x.safetensors", tmp_path / "y.safetensors"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(load_file(tmp_path / "y.safetensors")["y"].numpy(), x @ wanted.T)


def test_one_scale_for_all_rows(aerogel, tmp_path):
    weight = torch.tensor([[1.0, -448], [0.5, 2]]).to(torch.float8_e4m3fn)
    for scale in (torch.tensor([0.5]), torch.tensor(0.5)):
        tensors = {"fc.weight": weight, "fc.weight_scale": scale}
        np.testing.assert_array_equal(restored(aerogel, tmp_path, "FP8", tensors), [[0.5, -224], [0.25, 1]])


BYTES, NAN = torch.zeros(4, 32, dtype=torch.uint8), float("nan")
DAMAGED = [
    ("W4A16", {"weight": torch.full((4, 64), 8, dtype=torch.int8), "weight_scale": torch.ones(4, 1), "bias": torch.ones(3)}, "'fc.bias' (W4A16) must be"),
    ("W4A16", {"weight": torch.zeros(3, 64, dtype=torch.int8), "weight_scale": torch.ones(4, 1)}, "data must be i8 or u8 with 4 or, packed, 2 rows, got i8[3,64]"),
    ("W4A16", {"weight": torch.zeros(4, dtype=torch.int8), "weight_scale": torch.ones(4, 1)}, "'fc.weight' (W4A16) must be a matrix, got i8[4]"),
    ("W4A16", {"weight": torch.zeros(4, 64, dtype=torch.int8)}, "'fc.weight_scale' (W4A16) must be in the file, got nothing"),
    ("W4A16", {"weight": torch.zeros(4, 64, dtype=torch.int8), "weight_scale": torch.full((4, 1), NAN)}, "weight_scale has the value nan"),
    ("W4A8", {"weight": torch.zeros(4, 64, dtype=torch.int8), "weight_scale": torch.ones(4, 1), "weight_offset": torch.ones(4, 1)}, "must be zeros"),
    ("W4A4_MXFP4", {"weight": BYTES, "weight_scale": torch.full((4, 2), 255, dtype=torch.uint8)}, "scale byte 255 (NaN) at element 0"),
    ("W4A4_MXFP4", {"weight": BYTES, "weight_scale": torch.zeros(4, 3, dtype=torch.uint8)}, "must be u8 or f8_e8m0 [4,2], got u8[4,3]"),
    ("W4A4_MXFP4", {"weight": BYTES, "weight_scale": torch.ones(4, 2)}, "must be u8 or f8_e8m0 [4,2], got f32[4,2]"),
    ("W4A4_MXFP4", {"weight": torch.full((4, 64), 5.0).to(torch.float8_e4m3fn), "weight_scale": BYTES[:, :2]}, "must hold 0, .5, 1, 1.5, 2, 3, 4, 6"),
    ("W4A4_MXFP4_DUALSCALE", {"weight": BYTES, "weight_scale": BYTES[:, :2].clone()}, "'fc.weight_dual_scale' (W4A4_MXFP4_DUALSCALE) must be in the file"),
    ("W4A4_MXFP4_DUALSCALE", {"weight": BYTES, "weight_scale": BYTES[:, :2].clone(), "weight_dual_scale": torch.full((4, 1, 1), NAN)}, "weight_dual_scale has the value nan"),
    ("W4A4_MXFP4_DUALSCALE", {"weight": BYTES, "weight_scale": BYTES[:, :2].clone(), "weight_dual_scale": torch.ones(4, 4, 1)}, "'fc.weight_dual_scale' (W4A4_MXFP4_DUALSCALE) must be [4,k/block,1] with a block of 32, 64 ... of the 64 columns, got f32[4,4,1]"),
    ("W4A4_MXFP4_DUALSCALE", {"weight": BYTES, "weight_scale": BYTES[:, :2].clone(), "weight_dual_scale": torch.ones(5)}, "(W4A4_MXFP4_DUALSCALE) must be [4,k/block,1]"),
    ("W8A8_MXFP8", {"weight": BYTES, "weight_scale": BYTES[:, :1].clone()}, "must be f8_e4m3[out_features,in_features], got u8[4,32]"),
    ("W8A8_DYNAMIC", {"weight": torch.zeros(4, 64, dtype=torch.int8), "weight_scale": torch.ones(4, 3)}, "[4,1] or [4,groups], got f32[4,3]"),
    ("FP8", {"weight": torch.zeros(4, 8).to(torch.float8_e4m3fn), "weight_scale": torch.ones(4, 1), "weight_offset": torch.ones(4, 1)}, "must be zeros"),
]


@pytest.mark.parametrize("scheme,arrays,message", DAMAGED)
def test_damaged(aerogel, tmp_path, scheme, arrays, message):
    tensors = {f"fc.{k}": v.contiguous().clone() for k, v in arrays.items()}
    path = write_pair(tmp_path, scheme, tensors, types_of(tensors, scheme))
    done = aerogel("dequantize", path, "-o", tmp_path / "f.safetensors")
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "f.safetensors").exists()


@pytest.mark.parametrize("flags,message", [
    (["--scheme", "W4A4_MXFP4", "--group-size", 32], "W4A4_MXFP4 has no groups of a size to choose"),
    (["--scheme", "W8A8_DYNAMIC", "--asymmetric"], "W8A8_DYNAMIC has symmetric weights only"),
    (["--scheme", "W8A16", "--packed"], "packing is for int4 weights, W8A16 has int8"),
    (["--scheme", "W4A16", "--group-size", 64], "fc: the group size must divide the 100 columns, got 64 (weight [3,100])"),
    (["--scheme", "W8A8_MXFP8", "--layout", "v0"], "layout v0 has no form of W8A8_MXFP8: choose v1"),
    (["--scheme", "W4A16_GPTQ"], "W4A16_GPTQ names an algorithm too; files of it are read as W4A16"),
    (["--scheme", "W4A16", "--packed", "--include", "odd"], "odd [3,5] cannot be packed: it has an odd number of columns"),
    (["--scheme", "MXFP4", "--include", "odd"], "odd [3,5] cannot be packed: it has an odd number of columns"),
])
def test_refusals(aerogel, tmp_path, flags, message):
    save_file({"fc.weight": torch.randn(3, 100), "odd.weight": torch.randn(3, 5)}, tmp_path / "m.safetensors")
    include = [] if "--include" in flags else ["--include", "fc"]
    done = aerogel("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "out", *flags, *include)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()
