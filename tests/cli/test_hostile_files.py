"""Files made to hurt, by name of the reader that meets them: one line that names the file, exit code 1, within bounded memory and time."""
import json
import os
import resource
import shutil
import struct
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

MEMORY = 6 << 30  # address space: threads and the mapped model take some of it
FLOAT32 = 3.4e38
HEAD = "apiversion: multimodal_sd_modelslim_v1\n"
PROCESS = "spec:\n  process:\n    - {type: linear_quant, qconfig: {act: {scope: per_token, dtype: int8, symmetric: True, method: minmax}, weight: {scope: per_channel, dtype: int8, symmetric: True, method: minmax}}}\n"


@pytest.fixture(scope="session")
def refused(build):
    """refused("generate", path, ...) -> the one line of a command that must fail."""
    def run(*arguments):
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        command = [os.fsencode(build / "aerogel"), *(os.fsencode(a) for a in map(lambda a: a if isinstance(a, bytes) else str(a), arguments))]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120, preexec_fn=limit, stdin=subprocess.DEVNULL)
        error = done.stderr.decode(errors="replace")
        assert done.returncode == 1 and not done.stdout and error.count("\n") == 1, (done.returncode, error[:2000])
        assert error.startswith("aerogel: [") and len(error) < 2000, error[:2000]
        return error

    return run


@pytest.fixture
def model(tiny_pipeline, tmp_path):
    return shutil.copytree(tiny_pipeline, tmp_path / "model")


def write_safetensors(path, tensors, data=b""):
    """tensors: name -> (dtype, shape, begin, end)."""
    header = {name: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]} for name, (dtype, shape, begin, end) in tensors.items()}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


GENERATE = ("--prompt", "red circle", "-o")
JSON_FILES = ["transformer/config.json", "text_encoder/vocabulary.json", "scheduler/scheduler_config.json", "model_index.json"]
DEEP = {"brackets": "[" * 100_000, "in an object": '{"_class_name": ' + "[" * 100_000 + "]" * 100_000 + "}", "objects": '{"a":' * 100_000}


@pytest.mark.parametrize("deep", DEEP)
@pytest.mark.parametrize("name", JSON_FILES)
def test_deep_json(refused, model, tmp_path, name, deep):
    (model / name).write_text(DEEP[deep])
    error = refused("generate", model, *GENERATE, tmp_path / "v.safetensors")
    assert str(model / name) in error and ("nested deeper than 64 levels" in error or "must be a JSON object" in error), error


@pytest.mark.parametrize("deep", DEEP)
@pytest.mark.parametrize("flags", [("--timestep-policy",), ("--sparse", "rf_v1", "--profile"), ("--quantized",)])
def test_deep_json_beside_the_model(refused, model, tmp_path, flags, deep):
    (tmp_path / "deep.json").write_text(DEEP[deep])
    assert "deep.json" in refused("generate", model, *flags, tmp_path / "deep.json", *GENERATE, tmp_path / "v.safetensors")


def test_deep_json_of_shards_and_reports(refused, model, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(DEEP["objects"])
    assert "nested deeper" in refused("inspect", index)
    (model / "transformer/config.json").write_text(DEEP["in an object"])
    assert "nested deeper" in refused("inspect", model / "transformer")


NUMBERS = [
    ("transformer/config.json", {"num_layers": 1e3}, "num_layers must be a whole number from 1 to 1048576, got 1000.0"),
    ("transformer/config.json", {"num_layers": -1}, "num_layers must be a whole number from 1 to 1048576, got -1"),
    ("transformer/config.json", {"num_layers": 2**63}, "num_layers must be a whole number from 1 to 1048576, got 9223372036854775808"),
    ("transformer/config.json", {"num_layers": 2**64 + 2}, "num_layers must be a whole number"),
    ("transformer/config.json", {"eps": float("nan")}, "not valid JSON"),
    ("transformer/config.json", {"eps": 1}, "eps must be a number between 0 and 1, got 1"),
    ("scheduler/scheduler_config.json", {"flow_shift": float("inf")}, "not valid JSON"),
    ("model_index.json", {"generation": {"num_frames": 10**9}}, "generation.num_frames must be a whole number from 1 to 1048576, got 1000000000"),
    ("model_index.json", {"generation": {"guidance_scale": 1e300}}, "generation.guidance_scale must be a number from"),
    ("text_encoder/vocabulary.json", {"groups": [[0]] * 65536, "max_objects": 65536, "slots_per_object": 1, "max_length": 65536}, "groups must be at most 1048576 slots, max_objects times"),
    ("text_encoder/vocabulary.json", {"max_objects": 2**62}, "max_objects must be a whole number from 1 to 65536"),
    ("text_encoder/vocabulary.json", {"words": 5}, "words must be a list of strings, got 5"),
]


@pytest.mark.parametrize("name,edit,message", NUMBERS)
def test_numbers(refused, model, name, edit, message):
    values = {**json.loads((model / name).read_text()), **edit}
    (model / name).write_text(json.dumps(values))
    assert message in refused("generate", model, *GENERATE, model / "v.safetensors")


def test_a_number_too_large_for_json(refused, model, tmp_path):
    path = model / "model_index.json"
    path.write_text('{"generation": {"guidance_scale": 1e999}}')
    assert "not valid JSON" in refused("generate", model, *GENERATE, tmp_path / "v.safetensors")


def policy(tmp_path, entries):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"register": entries}))
    return path


@pytest.mark.parametrize("entries,message", [
    ([{"step_range": {"start": 0, "stop": 1_000_000}, "strategy": "W4A8"}] * 1000, "stop must be a whole number from 0 to 100000, got 1000000"),
    ([{"step_range": {"start": 0, "stop": 100_000}, "strategy": "W4A8"}] * 10_000, "must be among 1000000 named steps at most"),
    ([{"step_range": 2**62, "strategy": "W4A8"}], "step_range must be a whole number from 0 to 99999"),
])
def test_policies(refused, model, tmp_path, entries, message):
    error = refused("generate", model, "--online", "W4A4_DYNAMIC", "--timestep-policy", policy(tmp_path, entries), *GENERATE, tmp_path / "v.safetensors")
    assert message in error and "policy.json" in error


# The readers of single files: arguments with the file in place of None.
READERS = {
    "recipe": lambda model, out: ("quantize", model, "-o", out, "--recipe", None),
    "captions": lambda model, out: ("quantize", model, "-o", out, "--scheme", "W8A8", "--captions", None),
    "calibration": lambda model, out: ("quantize", model, "-o", out, "--scheme", "W8A8", "--calibration", None),
    "recorded inputs": lambda model, out: ("forward", model, "--inputs", None, "-o", out),
    "description": lambda model, out: ("generate", model, "--quantized", None, *GENERATE, out),
    "policy": lambda model, out: ("generate", model, "--timestep-policy", None, *GENERATE, out),
    "profile": lambda model, out: ("generate", model, "--sparse", "rf_v1", "--profile", None, *GENERATE, out),
    "tensors": lambda model, out: ("compare", None, None),
}
ODD = {"pipe": "is a named pipe", "zeros": "is a device", "loop": "symbolic links", "stdin": "is a device"}


@pytest.fixture
def odd(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, target in {"zeros": "/dev/zero", "loop": "loop", "stdin": "/dev/stdin"}.items():
        (tmp_path / name).symlink_to(target)
    return tmp_path


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("reader", READERS)
def test_odd_files(refused, model, odd, reader, kind):
    arguments = [odd / kind if a is None else a for a in READERS[reader](model, odd / "out")]
    error = refused(*arguments)
    assert str(odd / kind) in error and ODD[kind] in error, error


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", JSON_FILES + ["transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_odd_files_of_a_model(refused, model, odd, name, kind):
    (model / name).unlink()
    (odd / kind).rename(model / name)
    if kind == "loop":
        (model / name).unlink()
        (model / name).symlink_to(name.split("/")[-1])
    error = refused("generate", model, *GENERATE, odd / "v.safetensors")
    assert str(model / name) in error and ODD[kind] in error, error


def test_folders_and_loops(refused, model, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for arguments in [("inspect", tmp_path / "loop"), ("quantize", tmp_path / "loop", "-o", tmp_path / "q", "--scheme", "W8A16"), ("generate", tmp_path / "loop", *GENERATE, tmp_path / "v.safetensors"),
                      ("dequantize", tmp_path / "loop", "-o", tmp_path / "d.safetensors")]:
        assert "symbolic links" in refused(*arguments)
    assert "is a folder, not a file" in refused("generate", model, "--timestep-policy", model, *GENERATE, tmp_path / "v.safetensors")


BOMB = "x0: &x0 [" + ",".join(["a"] * 10) + "]\n" + "".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.mark.parametrize("text,message", [
    (BOMB + HEAD + PROCESS.replace("spec:\n", "spec:\n  multimodal_sd_config: {inference_config: *x11}\n"), "holds more than 100000 values, aliases written out"),
    (HEAD + "spec: &s {process: [*s]}\n", "an alias stands in what it names"),
    (HEAD + "spec: " + "[" * 400 + "]" * 400, "nested deeper than 64 levels"),
    (HEAD + "spec: " + "[" * 100_000, "recipe.yaml"),
    (HEAD + "spec:" + " -" * 100_000, "recipe.yaml"),
    (HEAD + PROCESS + "".join(f"k{i}: 0\n" for i in range(40_000)), "has the unknown key 'k0'"),
    (HEAD + PROCESS.replace("- {", "- {" + ",".join(f"k{i}: 0" for i in range(40_000)) + ", "), "has the unknown key 'k0'"),
    (HEAD + PROCESS + "".join(f"k{i}: 0\n" for i in range(70_000)), "holds more than 100000 values"),
    (HEAD + "#" * 1_000_001, "must be at most 1000000 bytes long"),
])
def test_recipes(refused, model, tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    error = refused("quantize", model, "-o", tmp_path / "q", "--recipe", tmp_path / "recipe.yaml")
    assert message in error and not (tmp_path / "q").exists()


@pytest.mark.parametrize("pattern,message", [
    ("{a,b}" * 30, "matches none of"), ("{}" * 30_000, "at most 20000 characters"), ("{" * 9_000 + "}" * 9_000, "matches none of"),
    ("{" * 9_000, "a brace that is not closed"), ("*a" * 9_000, "matches none of"), ("[{a,b}" * 3_000, "matches none of"),
])
def test_patterns(refused, model, tmp_path, pattern, message):
    assert message in refused("quantize", model, "-o", tmp_path / "q", "--scheme", "W8A8_DYNAMIC", "--include", pattern)
    assert message in refused("generate", model, "--online", "W8A8_DYNAMIC", "--fallback", pattern + "=W8A16", *GENERATE, tmp_path / "v.safetensors")


@pytest.mark.parametrize("options", [(), ("--scheme", "W4A16", "--group-size", "64"), ("--scheme", "W4A4_MXFP4")])
@pytest.mark.parametrize("shape", [[2**40, 0], [0, 2**40], [0, 0]])
def test_models_of_nothing(refused, tmp_path, shape, options):
    path = write_safetensors(tmp_path / "m.safetensors", {"blocks.0.ffn.w.weight": ("F32", shape, 0, 0)})
    error = refused("quantize", path, "-o", tmp_path / "q", "--include", "*", *(options or ("--scheme", "W8A8_DYNAMIC")))
    assert "'blocks.0.ffn.w': the weight must be f32, bf16 or f16 with at least one row and one column" in error
    assert not any((tmp_path / "q").glob("*")) if (tmp_path / "q").exists() else True


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0], [2**62, 4, 0], [0, 2**33, 2**33]])
def test_shapes_that_cannot_be_multiplied(refused, tmp_path, shape):
    path = write_safetensors(tmp_path / "m.safetensors", {"w.weight": ("F32", shape, 0, 0)})
    assert "the size of f32" in refused("inspect", path) and "overflows" in refused("quantize", path, "-o", tmp_path / "q", "--scheme", "W8A16")


@pytest.mark.parametrize("kind,tensors", [
    ("W8A8_DYNAMIC", {"weight": ("I8", [2**31, 0], 0, 0), "weight_scale": ("F32", [2**31, 0], 0, 0)}),
    ("W8A8_MXFP8", {"weight": ("F8_E4M3", [2**60, 0], 0, 0), "weight_scale": ("U8", [2**60, 0], 0, 0)}),
    ("W4A4_MXFP4", {"weight": ("U8", [0, 2**61], 0, 0), "weight_scale": ("U8", [0, 0], 0, 0)}),
    ("W4A4_MXFP4", {"weight": ("U8", [2**61, 0], 0, 0), "weight_scale": ("U8", [2**61, 0], 0, 0)}),
    ("W4A16", {"weight": ("U8", [2**31, 0], 0, 0), "weight_scale": ("F32", [0], 0, 0)}),
])
def test_pairs_of_nothing(refused, aerogel, tmp_path, kind, tensors):
    write_safetensors(tmp_path / f"quant_model_weight_{kind.lower()}.safetensors", {f"a.{name}": value for name, value in tensors.items()})
    description = tmp_path / "quant_model_description.json"
    description.write_text(json.dumps({"model_quant_type": kind, **{f"a.{name}": kind for name in tensors}}))
    message = f"'a.weight' ({kind}) must be a matrix with at least one row and one column"
    assert message in refused("dequantize", description, "-o", tmp_path / "out.safetensors")
    done = aerogel("inspect", description, "--json")
    assert any(message in problem for problem in json.loads(done.stdout)["problems"]), done


def test_many_attention_entries(aerogel, tmp_path):
    """60,000 of them take no longer than their text."""
    write_safetensors(tmp_path / "quant_model_weight_w8a8_dynamic.safetensors", {"a": ("F32", [1], 0, 4)}, b"\0" * 4)
    description = tmp_path / "quant_model_description.json"
    description.write_text(json.dumps({"model_quant_type": "W8A8_DYNAMIC", **{f"blocks.{i}.attn1.quant_type": "FP8_DYNAMIC" for i in range(60_000)}}))
    done = aerogel("inspect", description, "--json", timeout=60)
    assert done.returncode in (0, 1) and json.loads(done.stdout), done.stderr[:500]


# Statistics of one step, edited.
@pytest.fixture(scope="module")
def statistics(aerogel, tiny_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    done = aerogel("quantize", tiny_pipeline, "-o", folder / "q", "--scheme", "W8A8_DYNAMIC", "--algorithm", "gptq", "--max-captions", 1, "--steps", 2, "--samples", 8, "--save-calibration", folder / "stats.safetensors")
    assert done.returncode == 0, done.stderr
    return load_file(folder / "stats.safetensors")


LAYER = "blocks.0.attn1.to_q"


@pytest.mark.parametrize("edit", [
    ("min_sum", float("nan"), "in step 0: sums must be finite"),
    ("max_sum", float("inf"), "in step 0: sums must be finite"),
    ("max_sum", 1e300, "in step 0: sums must be means of float32 values"),
    ("min_sum", 1e30, "in step 0: min_sum must not be above max_sum"),
    ("forwards", 2**62, "in step 0: forwards must be between 0 and 2^40"),
    ("forwards", -1, "in step 0: forwards must be between 0 and 2^40"),
    ("forwards", 0, "in step 0: sums must be means of float32 values"),
    ("inputs", float("nan"), f"'{LAYER}.inputs' has the value nan at element 0"),
    ("input_steps", 2, f"'{LAYER}.input_steps' must be in [0, 2), got 2 at element 0"),
    ("input_steps", -1, f"'{LAYER}.input_steps' must be in [0, 2), got -1 at element 0"),
])
@pytest.mark.parametrize("scheme", ["W8A8", "W8A8_TIMESTEP"])
def test_calibration(refused, model, statistics, scheme, edit):
    tensor, value, message = edit
    tmp_path = model.parent
    edited = {name: kept.clone() for name, kept in statistics.items()}
    edited[f"{LAYER}.{tensor}"].view(-1)[0] = value
    save_file(edited, tmp_path / "stats.safetensors")
    error = refused("quantize", model, "-o", tmp_path / "q", "--scheme", scheme, "--calibration", tmp_path / "stats.safetensors")
    assert message in error and LAYER in error
    assert not any((tmp_path / "q").glob("*")) if (tmp_path / "q").exists() else True


def test_scales_that_the_type_of_the_model_cannot_hold(refused, model, statistics, tmp_path):
    """Finite statistics whose scale is infinite as float16."""
    weights = model / "transformer/diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    edited = {name: kept.clone() for name, kept in statistics.items()}
    edited[f"{LAYER}.max_sum"] = torch.full_like(edited[f"{LAYER}.max_sum"], 1e30)
    save_file(edited, tmp_path / "stats.safetensors")
    error = refused("quantize", model, "-o", tmp_path / "q", "--scheme", "W8A8", "--layout", "v0", "--calibration", tmp_path / "stats.safetensors")
    assert LAYER in error and "inf" in error


@pytest.mark.parametrize("bias,got", [(torch.zeros(63), "f32[63]"), (torch.zeros(64, dtype=torch.int8), "i8[64]"), (torch.zeros(1, 64), "f32[1,64]"), (torch.zeros(()), "f32[]")])
@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W8A16", "W4A4_MXFP4"])
def test_biases(refused, model, scheme, bias, got):
    weights = model / "transformer/diffusion_pytorch_model.safetensors"
    save_file({**load_file(weights), f"{LAYER}.bias": bias}, weights)
    error = refused("quantize", model, "-o", model / "q", "--scheme", scheme)
    assert f"'{LAYER}': the bias must be f32, bf16 or f16 [64], got {got}" in error


def test_recorded_inputs_of_nothing(refused, model, tmp_path):
    path = write_safetensors(tmp_path / "r.safetensors", {
        "hidden_states": ("F32", [2**50, 3, 0, 8, 8], 0, 0), "timestep": ("F32", [2**50, 0], 0, 0), "encoder_hidden_states": ("F32", [2**50, 0, 16], 0, 0)})
    assert "'hidden_states' must be without sizes of 0 after the first axis" in refused("forward", model, "--inputs", path, "-o", tmp_path / "o.safetensors")


def test_a_model_shortened_while_it_is_read(build, model, tmp_path):
    """Its bytes go while layers are written: no SIGBUS, and no pair."""
    weights = model / "transformer/diffusion_pytorch_model.safetensors"
    torch.manual_seed(1)
    save_file({f"blocks.{i}.ffn.w.weight": torch.randn(1024, 1024) for i in range(48)}, weights)
    for _ in range(5):  # a run may be over before it is noticed
        copy = shutil.copy(weights, tmp_path / "m.safetensors")
        process = subprocess.Popen([build / "aerogel", "quantize", copy, "-o", tmp_path / "q", "--include", "*", "--algorithm", "ssz", "--scheme", "W8A8_DYNAMIC"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not any(tmp_path.glob("q/*.part")):
            pass
        os.truncate(copy, 1 << 20)
        error = process.communicate(timeout=120)[1]
        if process.returncode != 0:
            break
        shutil.rmtree(tmp_path / "q")
    assert process.returncode == 1 and "m.safetensors: was shortened while it was read" in error, (process.returncode, error)
    assert not any(tmp_path.glob("q/*.safetensors")) and not any(tmp_path.glob("q/*.json"))
