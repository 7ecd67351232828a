"""aerogel generate --online: a float model quantized in memory has the bits of exported files; and --timestep-policy."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

PROMPT = "red circle moves left"
FREE = ["W8A16", "W4A16", "W8A16_FP8", "W8A16_FP8_E5M2", "W8A16_MXFP8", "W4A16_MXFP4", "W8A8_DYNAMIC", "W4A8", "W4A4_DYNAMIC",
        "WFP8AFP8_DYNAMIC", "W8A8_MXFP8", "W4A8_MXFP", "W4A4_MXFP4", "W4A4_MXFP4_DUALSCALE"]


@pytest.fixture(scope="module")
def models(tiny_pipeline, tmp_path_factory):
    """The tiny pipeline with weights of each type."""
    folders = {"f32": tiny_pipeline}
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        folders[name] = tmp_path_factory.mktemp(name) / "model"
        shutil.copytree(tiny_pipeline, folders[name])
        path = folders[name] / "transformer/diffusion_pytorch_model.safetensors"
        save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path)
    return folders


def video(aerogel, model, tmp_path, *flags):
    done = aerogel("generate", model, "--prompt", PROMPT, "-o", tmp_path / "v.safetensors", "--json", *flags)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "v.safetensors").read_bytes(), json.loads(done.stdout)


def exported(aerogel, model, tmp_path, *flags):
    done = aerogel("quantize", model, "-o", tmp_path / "q", *flags)
    assert done.returncode == 0, done.stderr
    bits, report = video(aerogel, model, tmp_path, "--quantized", tmp_path / "q")
    shutil.rmtree(tmp_path / "q")
    return bits, report


def one_line(done):
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


def test_every_scheme_without_calibration_is_here(aerogel):
    rows = json.loads(aerogel("quantize", "--list", "--json").stdout)["schemes"]
    assert {row["scheme"] for row in rows if row["data"] == "none"} == set(FREE)


@pytest.mark.parametrize("scheme", FREE)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_bits_of_the_files(aerogel, models, tmp_path, scheme, dtype):
    files, _ = exported(aerogel, models[dtype], tmp_path, "--scheme", scheme)
    memory, report = video(aerogel, models[dtype], tmp_path, "--online", scheme)
    assert files == memory
    assert report["quantized"] == {"online": scheme, "layers": {scheme: 20, "FLOAT": 6}}
    assert report["weight_bytes"] < report["float_bytes"]
    assert memory != video(aerogel, models[dtype], tmp_path)[0]


@pytest.mark.parametrize("flags", [("W4A16", "--group-size", 0), ("W4A16", "--group-size", 32, "--asymmetric"), ("W8A16", "--algorithm", "ssz"),
                                   ("W4A4_MXFP4", "--algorithm", "ceil_x"), ("W8A8_DYNAMIC", "--include", "blocks.1.*", "--exclude", "*.ffn.*"),
                                   ("W8A8_DYNAMIC", "--rotate", 16), ("W4A16", "--low-rank", 4), ("W4A4_MXFP4", "--low-rank", 4, "--rotate", -1),
                                   ("W4A16", "--low-rank", 3, "--rotate", 32, "--group-size", 32)])
def test_bits_with_choices(aerogel, models, tmp_path, flags):
    scheme, *rest = flags
    files, _ = exported(aerogel, models["bf16"], tmp_path, "--scheme", scheme, *rest)
    memory, _ = video(aerogel, models["bf16"], tmp_path, "--online", scheme, *rest)
    assert files == memory != video(aerogel, models["bf16"], tmp_path, "--online", scheme)[0]


def test_names_with_endings(aerogel, tiny_pipeline, tmp_path):
    """_SVD means rank 32."""
    named, report = video(aerogel, tiny_pipeline, tmp_path, "--online", "W4A4_MXFP4_SVD")
    assert named == video(aerogel, tiny_pipeline, tmp_path, "--online", "W4A4_MXFP4", "--low-rank", 32)[0]
    assert named == exported(aerogel, tiny_pipeline, tmp_path, "--scheme", "W4A4_MXFP4_SVD")[0]
    assert report["quantized"]["layers"] == {"W4A4_MXFP4_SVD": 20, "FLOAT": 6}


def test_fallback_layers(aerogel, tiny_pipeline, tmp_path):
    """The first pattern wins, and W8A8 in memory is its dynamic form."""
    flags = ["--fallback", "blocks.0.attn1.*=W16A16", "--fallback", "blocks.0.*=W8A8", "--fallback", "*.ffn.*=w8a8_mxfp8"]
    _, report = video(aerogel, tiny_pipeline, tmp_path, "--online", "W4A4_MXFP4", *flags)
    assert report["quantized"]["layers"] == {"FLOAT": 10, "W8A8_DYNAMIC": 6, "W8A8_MXFP8": 2, "W4A4_MXFP4": 8}


def policy(tmp_path, **fields):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(fields))
    return path


@pytest.mark.parametrize("narrow,wide", [("W4A4_DYNAMIC", "W4A8"), ("W4A4_MXFP4", "W4A8_MXFP")])
def test_four_bit_weights_with_wider_activations(aerogel, tiny_pipeline, tmp_path, narrow, wide):
    """In steps of W4A8 the same weights give what the scheme with 8-bit activations gives; one step of it lies between."""
    every = policy(tmp_path, w4a4_default_strategy="W4A8")
    results = {wide: video(aerogel, tiny_pipeline, tmp_path, "--online", wide)[0],
               narrow: video(aerogel, tiny_pipeline, tmp_path, "--online", narrow)[0],
               "every": video(aerogel, tiny_pipeline, tmp_path, "--online", narrow, "--timestep-policy", every)[0]}
    one = policy(tmp_path, register=[{"step_range": 1, "strategy": "W4A8"}])
    results["one"] = video(aerogel, tiny_pipeline, tmp_path, "--online", narrow, "--timestep-policy", one)[0]
    none = policy(tmp_path)
    assert results["every"] == results[wide]
    assert video(aerogel, tiny_pipeline, tmp_path, "--online", narrow, "--timestep-policy", none)[0] == results[narrow]
    assert len(set(results.values())) == 3


def test_dual_scales_take_wider_activations(aerogel, tiny_pipeline, tmp_path):
    every = policy(tmp_path, w4a4_default_strategy="W4A8")
    video(aerogel, tiny_pipeline, tmp_path)
    errors = []
    reference = load_file(tmp_path / "v.safetensors")["video"]
    for flags in ((), ("--timestep-policy", every)):
        video(aerogel, tiny_pipeline, tmp_path, "--online", "W4A4_MXFP4_DUALSCALE", *flags)
        errors.append(float((load_file(tmp_path / "v.safetensors")["video"] - reference).norm()))
    assert errors[1] < 0.9 * errors[0]


def test_static_and_dynamic_steps(aerogel, tiny_pipeline, tmp_path):
    out = tmp_path / "out"
    captions = tmp_path / "captions.txt"
    captions.write_text("red circle moves left\n")
    assert aerogel("quantize", tiny_pipeline, "-o", out, "--scheme", "W8A8_TIMESTEP", "--captions", captions).returncode == 0
    def run(*flags):
        return video(aerogel, tiny_pipeline, tmp_path, "--quantized", out, *flags)[0]
    late = [{"step_range": {"start": 2, "stop": 9}, "strategy": "static", "target": "w8a8_static_linear"}]
    assert run("--timestep-policy", policy(tmp_path)) == run("--first-static-step", 3)
    assert run("--timestep-policy", policy(tmp_path, register=late)) == run("--first-static-step", 2)
    late = [{"step_range": [0, 1], "strategy": "dynamic", "target": "linear"}]
    assert run("--timestep-policy", policy(tmp_path, default_strategy="static", register=late)) == run("--first-static-step", 2)
    assert run("--timestep-policy", policy(tmp_path, default_strategy="static")) == run()


FA = ["FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC", "INT8_DYNAMIC"]


def test_quantized_attention(aerogel, tiny_pipeline, tmp_path):
    """The bits of files, near to float attention and different from it and from each other."""
    plain = video(aerogel, tiny_pipeline, tmp_path, "--online", "W8A16")[0]
    exact = load_file(tmp_path / "v.safetensors")["video"]
    results = {plain}
    for kind in FA:
        files, _ = exported(aerogel, tiny_pipeline, tmp_path, "--scheme", "W8A16", "--fa", kind)
        memory, report = video(aerogel, tiny_pipeline, tmp_path, "--online", "W8A16", "--fa", kind)
        got = load_file(tmp_path / "v.safetensors")["video"]
        assert files == memory and report["quantized"]["layers"] == {kind: 2, "W8A16": 20, "FLOAT": 6}
        assert 0 < float((got - exact).norm()) < 0.05 * float(exact.norm())
        results.add(memory)
    assert len(results) == 1 + len(FA)
    cross, report = video(aerogel, tiny_pipeline, tmp_path, "--online", "W8A16", "--fa", "MXFP4_DYNAMIC", "--fa-layers", "*.attn2")
    assert cross not in results and report["quantized"]["layers"]["MXFP4_DYNAMIC"] == 2


def test_attention_step_by_step(aerogel, tiny_pipeline, tmp_path):
    """MXFP4 attention follows registered steps and the default; eight bits become float in steps registered so and never get coarser."""
    def run(kind, **fields):
        return video(aerogel, tiny_pipeline, tmp_path, "--online", "W8A16", *(["--fa", kind] if kind else []),
                     "--timestep-policy", policy(tmp_path, **fields))[0]
    every = {"step_range": [0, 1, 2], "target": "fa"}
    plain, fp8, mxfp4 = (run(kind) for kind in (None, "FP8_DYNAMIC", "MXFP4_DYNAMIC"))
    assert len({plain, fp8, mxfp4}) == 3
    assert run("FP8_DYNAMIC", fa_default_strategy="FLOAT") == fp8
    assert run("MXFP4_DYNAMIC", fa_default_strategy="FP8") == fp8 == run("MXFP4_DYNAMIC", register=[{**every, "strategy": "FP8"}])
    assert run("MXFP4_DYNAMIC", fa_default_strategy="FLOAT") == plain == run("FP8_DYNAMIC", register=[{**every, "strategy": "FLOAT"}])
    assert run("FP8_DYNAMIC", register=[{**every, "strategy": "MXFP4"}]) == fp8
    assert run("INT8_DYNAMIC", register=[{**every, "strategy": "FP8"}]) == run("INT8_DYNAMIC")
    assert run("INT8_DYNAMIC", register=[{**every, "strategy": "FLOAT"}]) == plain
    assert run("FP8_DYNAMIC", register=[{"step_range": 1, "strategy": "FLOAT", "target": "fa"}]) not in (plain, fp8, mxfp4)


def test_calibrated_attention(aerogel, tiny_pipeline, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("red circle moves left\n")
    plain = video(aerogel, tiny_pipeline, tmp_path, "--online", "W8A16")[0]
    exact = load_file(tmp_path / "v.safetensors")["video"]
    done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "q", "--scheme", "W8A16", "--fa", "FAQUANT", "--captions", captions)
    assert done.returncode == 0 and "calibrated on 1 caption" in done.stdout, done.stderr
    stored = load_file(tmp_path / "q/quant_model_weight_w8a16.safetensors")
    for part in "qkv":
        assert stored[f"blocks.1.attn1.fa_{part}.scale"].shape == (2, 1) and (stored[f"blocks.1.attn1.fa_{part}.scale"] > 0).all()
    types = json.loads((tmp_path / "q/quant_model_description_w8a16.json").read_text())
    assert types["blocks.1.attn1.fa_v.offset"] == "FAQuant" and "blocks.1.attn1.quant_type" not in types
    got, report = video(aerogel, tiny_pipeline, tmp_path, "--quantized", tmp_path / "q")
    difference = load_file(tmp_path / "v.safetensors")["video"] - exact
    assert report["quantized"]["layers"]["FAQUANT"] == 2 and got != plain and float(difference.norm()) < 0.05 * float(exact.norm())


@pytest.mark.parametrize("flags,message", [
    (["--online", "W8A16", "--fa", "FP8"], "there is no quantized attention 'FP8'; there are: INT8_DYNAMIC"),
    (["--online", "W8A16", "--fa", "FAQUANT"], "FAQUANT attention needs calibrated scales and comes from files"),
    (["--online", "W8A16", "--fa", "INT8_DYNAMIC", "--fa-layers", "*.attn3"], "pattern '*.attn3' matches none of the 4 attention modules"),
    (["--online", "W8A16", "--fa-layers", "*"], "fa_layers without fa_quant_type"),
    (["--fa", "INT8_DYNAMIC"], "--fa says nothing without --online"),
    (["--online", "W8A8"], "W8A8 needs calibrated activation ranges and comes from files"),
    (["--online", "W9A9"], "there is no scheme 'W9A9'"),
    (["--online", "W8A16", "--quantized", "x.json"], "give only one of them"),
    (["--timestep-policy", "x.json", "--first-static-step", "1"], "reads one: give only one of them"),
    (["--fallback", "a=W8A16"], "--fallback says nothing without --online"),
    (["--online", "W8A16", "--fallback", "blocks"], "--fallback must be PATTERN=SCHEME, got 'blocks'"),
    (["--online", "W8A16", "--fallback", "block.*=W8A8"], "pattern 'block.*' matches none of the 26 Linear layers"),
    (["--online", "W8A16", "--exclude", "blocks.0.attn1.to_x"], "did you mean 'blocks.0.attn1.to_q'?"),
    (["--online", "W8A16", "--algorithm", "gptq"], "algorithm 'gptq' needs recorded inputs"),
    (["--online", "W8A8_DYNAMIC", "--asymmetric"], "W8A8_DYNAMIC has symmetric weights only"),
    (["--online", "W8A8_MXFP8", "--group-size", 32], "W8A8_MXFP8 has no groups of a size to choose"),
    (["--online", "W4A16", "--rotate", 48], "block must be -1 or a power of two that divides the 64 columns, got 48"),
    (["--online", "W4A16", "--low-rank", 65], "the rank must be at most 64, got 65 (weight [64,64])"),
    (["--rotate", 32], "--rotate says nothing without --online"),
    (["--online", "W4A16", "--group-size", 48], "the group size must divide the 64 columns, got 48 (weight [64,64])"),
])
def test_refusals(aerogel, tiny_pipeline, tmp_path, flags, message):
    assert message in one_line(aerogel("generate", tiny_pipeline, "--prompt", PROMPT, "-o", tmp_path / "v.safetensors", *flags))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text,message", [
    ("[]", "must be a JSON object"),
    ('{"strategy": "dynamic"}', "unknown key 'strategy', there are: default_strategy"),
    ('{"default_strategy": "fast"}', "strategy of w8a8_static_linear must be one of dynamic, static, got 'fast'"),
    ('{"register": 3}', "register must be a list, got 3"),
    ('{"register": [{"strategy": "W4A8"}]}', "with step_range and strategy"),
    ('{"register": [{"step_range": -1, "strategy": "W4A8"}]}', "step_range must be a whole number from 0 to 99999, got -1"),
    ('{"register": [{"step_range": {"start": 0}, "strategy": "W4A8"}]}', 'step_range.stop must be a whole number from 0 to 100000, got nothing'),
    ('{"register": [{"step_range": 0, "strategy": "FP8", "target": "attention"}]}', "target must be linear, w8a8_static_linear, w4a4_linear or fa, got 'attention'"),
    ('{"register": [{"step_range": 0, "strategy": "W4A4", "target": "fa"}]}', "strategy of fa must be one of MXFP4, FP8, FLOAT, got 'W4A4'"),
])
def test_bad_policies(aerogel, tiny_pipeline, tmp_path, text, message):
    path = tmp_path / "p.json"
    path.write_text(text)
    error = one_line(aerogel("generate", tiny_pipeline, "--prompt", PROMPT, "--timestep-policy", path, "-o", tmp_path / "v.safetensors"))
    assert message in error and str(path) in error
