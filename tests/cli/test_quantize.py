"""aerogel quantize, with calibration on a tiny pipeline, and aerogel dequantize."""
import json
import os
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

STATIC = ["W8A8", "W8A8_TIMESTEP"]


def one_line(done):
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


@pytest.fixture
def embeds(tmp_path):
    """A file of embeddings of two captions."""
    path = tmp_path / "embeds.safetensors"
    save_file({"prompt_embeds": torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(4))}, path)
    return path


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("# for the tests\nred circle moves left\n\n  blue star turns, red circle turns  \n")
    return path


def calibrate(aerogel, model, folder, *options):
    done = aerogel("quantize", model, "-o", folder, "--scheme", "W8A8", "--json", "--save-calibration", folder / "stats.safetensors", *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout), load_file(folder / "stats.safetensors")


def test_ranges_are_those_of_the_inputs(aerogel, tiny_pipeline, tmp_path, embeds):
    """Where inputs are known without the noise: the first text layer sees the embeddings, the first time layer the sinusoids.
    Guidance 1 means one forward per step and caption."""
    (tmp_path / "out").mkdir()
    report, stats = calibrate(aerogel, tiny_pipeline, tmp_path / "out", "--prompt-embeds", embeds, "--steps", 3, "--guidance", 1)
    assert report["calibration"] == {"source": "captions", "steps": 3, "captions": 2}
    prompt = load_file(embeds)["prompt_embeds"].double()
    layer = "condition_embedder.text_embedder.linear_1"
    assert stats[f"{layer}.forwards"].tolist() == [2, 2, 2]
    for kind, value in (("min", prompt.amin((1, 2)).sum()), ("max", prompt.amax((1, 2)).sum())):
        assert torch.equal(stats[f"{layer}.{kind}_sum"], value.repeat(3))
    sines = stats["condition_embedder.time_embedder.linear_1.max_sum"] / 2
    assert (sines > 0.9).all() and (sines <= 1).all()
    names = {k.rpartition(".")[0] for k in stats}
    assert len(names) == 2 * 10 + 6 and all((stats[f"{n}.min_sum"] <= stats[f"{n}.max_sum"]).all() for n in names)


def test_guidance_doubles_the_forwards(aerogel, tiny_pipeline, tmp_path, captions):
    (tmp_path / "out").mkdir()
    _, stats = calibrate(aerogel, tiny_pipeline, tmp_path / "out", "--captions", captions, "--frames", 1, "--size", "16x16")
    assert stats["blocks.0.attn1.to_q.forwards"].tolist() == [4, 4, 4]
    _, stats = calibrate(aerogel, tiny_pipeline, tmp_path / "out", "--captions", captions, "--max-captions", 1, "--steps", 2)
    assert stats["blocks.0.attn1.to_q.forwards"].tolist() == [2, 2]


@pytest.mark.parametrize("scheme", STATIC)
def test_calibrated_and_from_file_are_equal(aerogel, tiny_pipeline, tmp_path, captions, scheme):
    """The same seed gives the same files, and so do kept ranges; another seed gives others."""
    base = ["quantize", tiny_pipeline, "--scheme", scheme]
    runs = {"a": ["--captions", captions, "--save-calibration", tmp_path / "s"], "b": ["--captions", captions],
            "c": ["--calibration", tmp_path / "s"], "d": ["--captions", captions, "--seed", 5]}
    for name, options in runs.items():
        done = aerogel(*base, "-o", tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
    data = {n: (tmp_path / n / f"quant_model_weight_{scheme.lower()}.safetensors").read_bytes() for n in runs}
    assert data["a"] == data["b"] == data["c"] != data["d"]
    steps = load_file(tmp_path / f"a/quant_model_weight_{scheme.lower()}.safetensors")["blocks.0.ffn.net.2.input_scale"].shape
    assert steps == ((1,) if scheme == "W8A8" else (3, 1))


def test_default_captions_come_with_the_model(aerogel, tiny_pipeline, tmp_path):
    """The built-in captions speak of more than this vocabulary knows; a file beside the model replaces them."""
    model = tmp_path / "model"
    subprocess.run(["cp", "-r", tiny_pipeline, model], check=True)
    text = one_line(aerogel("quantize", model, "-o", tmp_path / "out", "--scheme", "W8A8"))
    assert "yellow" in text and "red" in text
    (model / "calibration_captions.txt").write_text("blue star turns\n")
    done = aerogel("quantize", model, "-o", tmp_path / "out", "--scheme", "W8A8")
    assert done.returncode == 0 and "calibrated on 1 caption, 3 steps each" in done.stdout


def test_timestep_files_generate(aerogel, tiny_pipeline, tmp_path, captions):
    out = tmp_path / "out"
    assert aerogel("quantize", tiny_pipeline, "-o", out, "--scheme", "W8A8_TIMESTEP", "--captions", captions).returncode == 0
    videos = {}
    for first in (0, 2, 3):
        done = aerogel("generate", tiny_pipeline, "--prompt", "red circle moves left", "--quantized", out, "--first-static-step", first,
                       "-o", tmp_path / "v.safetensors")
        assert done.returncode == 0, done.stderr
        videos[first] = load_file(tmp_path / "v.safetensors")["video"]
    assert not torch.equal(videos[0], videos[2]) and not torch.equal(videos[2], videos[3])
    assert "the first static step must be in [0, 100000], got -1" in one_line(
        aerogel("generate", tiny_pipeline, "--prompt", "red", "--quantized", out, "--first-static-step", -1, "-o", tmp_path / "v.safetensors"))
    assert "the first static step must be in [0, 3] (the file's steps), got 4" in one_line(
        aerogel("generate", tiny_pipeline, "--prompt", "red", "--quantized", out, "--first-static-step", 4, "-o", tmp_path / "v.safetensors"))
    assert "the timestep index must be in [0, 3), got 3" in one_line(
        aerogel("generate", tiny_pipeline, "--prompt", "red", "--quantized", out, "--steps", 4, "-o", tmp_path / "v.safetensors"))


@pytest.mark.parametrize("dtype,slack", [(torch.float32, 1e-5), (torch.bfloat16, 0.2501)])
def test_round_trip(aerogel, tmp_path, dtype, slack):
    """dequantize(quantize(W)) is at most half a scale from W; in bfloat16 the quotient's own rounding adds up to a quarter."""
    generator = torch.Generator().manual_seed(2)
    state = {"blocks.0.ffn.net.2.weight": torch.randn(40, 300, generator=generator).to(dtype), "norm.weight": torch.randn(7, generator=generator).to(dtype),
             "blocks.0.ffn.net.2.bias": torch.randn(40, generator=generator).to(dtype)}
    save_file(state, tmp_path / "m.safetensors")
    for scheme in ("W8A16", "W8A8_DYNAMIC"):
        out = tmp_path / scheme
        assert aerogel("quantize", tmp_path / "m.safetensors", "-o", out, "--scheme", scheme).returncode == 0
        done = aerogel("dequantize", out, "-o", out / "f.safetensors", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["layers"] == 1
        back = load_file(out / "f.safetensors")
        assert back.keys() == state.keys()
        scale = load_file(out / f"quant_model_weight_{scheme.lower()}.safetensors")["blocks.0.ffn.net.2.weight_scale"].float()
        error = (back["blocks.0.ffn.net.2.weight"] - state["blocks.0.ffn.net.2.weight"].float()).abs() / scale
        assert 0.45 < float(error.max()) <= 0.5 + slack
        assert all(torch.equal(back[k], state[k]) for k in ("norm.weight", "blocks.0.ffn.net.2.bias"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_algorithms(aerogel, tmp_path, dtype):
    """Scales by least error beat those of the largest magnitude; the report names the algorithm."""
    weight = torch.randn(40, 300, generator=torch.Generator().manual_seed(2))
    weight[::3, 7] *= 6
    save_file({"blocks.0.ffn.net.2.weight": weight.to(dtype)}, tmp_path / "m.safetensors")
    errors = {}
    for algorithm in ("minmax", "ssz", "mse_clip"):
        done = aerogel("quantize", tmp_path / "m.safetensors", "-o", tmp_path / algorithm, "--scheme", "W8A16", "--algorithm", algorithm, "--json")
        report = json.loads(done.stdout)
        assert report["algorithm"] == algorithm
        assert aerogel("dequantize", tmp_path / algorithm, "-o", tmp_path / "f.safetensors").returncode == 0
        back = load_file(tmp_path / "f.safetensors")["blocks.0.ffn.net.2.weight"].double()
        errors[algorithm] = float((back - weight.to(dtype).double()).norm() / weight.double().norm())
        assert errors[algorithm] == pytest.approx(report["layers"][0]["relative_error"], rel=1e-2)
    assert errors["ssz"] < errors["minmax"] and errors["mse_clip"] < errors["minmax"]


@pytest.mark.parametrize("options,message", [
    (["--scheme", "W8A8_MIX"], "scheme W8A8_MIX is not supported; supported are: W8A16, W4A16, W8A16_FP8"),
    (["--scheme", "W9A9"], "there is no scheme 'W9A9'; there are: W8A16"),
    (["--scheme", "W8A16", "--include", "block.*"], "pattern 'block.*' matches none of the 26 Linear layers"),
    (["--scheme", "W8A16", "--exclude", "blocks.0.attn1.to_x"], "did you mean 'blocks.0.attn1.to_k'?"),
    (["--scheme", "W8A16", "--exclude", "*"], "no layer is left to quantize"),
    (["--scheme", "W8A16", "--include", "{a"], "has a brace that is not closed"),
    (["--scheme", "W8A16", "--algorithm", "fouroversix"], "no algorithm 'fouroversix' writes int8; there are: minmax (int8), minmax (int4)"),
    (["--scheme", "W4A16", "--group-size", "48"], "the group size must divide the 64 columns, got 48"),
    (["--scheme", "W8A16", "--steps", "4"], "--steps says nothing for W8A16, which needs no calibration"),
    (["--scheme", "W4A8", "--stagger", "0.5"], "--stagger says nothing for W4A8, which needs no calibration"),
    (["--scheme", "W8A8", "--samples", "64"], "--samples says nothing where no algorithm looks at inputs"),
    (["--scheme", "W8A8_TIMESTEP", "--first-static-step", "1"], "not expected: --first-static-step 1"),
    (["--scheme", "W8A8", "--calibration", "/nowhere"], "/nowhere"),
    (["--scheme", "W8A8", "--captions", "/nowhere"], "/nowhere"),
    (["--scheme", "W8A8", "--size", "16"], "--size must be WIDTHxHEIGHT"),
])
def test_refusals(aerogel, tiny_pipeline, tmp_path, options, message):
    assert message in one_line(aerogel("quantize", tiny_pipeline, "-o", tmp_path / "out", *options))
    assert not (tmp_path / "out").exists()


def test_more_refusals(aerogel, tiny_pipeline, tmp_path, captions):
    out = ["-o", tmp_path / "out", "--scheme", "W8A16"]
    assert "/nowhere does not exist" in one_line(aerogel("quantize", "/nowhere", *out))
    assert "has no diffusion_pytorch_model.safetensors" in one_line(aerogel("quantize", tmp_path, *out))
    save_file({"blocks.0.ffn.weight": torch.zeros(4, 4, dtype=torch.int8)}, tmp_path / "int.safetensors")
    assert "the model has no float Linear layers" in one_line(aerogel("quantize", tmp_path / "int.safetensors", *out))
    (tmp_path / "file").touch()
    assert "cannot be a folder" in one_line(aerogel("quantize", tiny_pipeline, "-o", tmp_path / "file/x", "--scheme", "W8A16"))
    save_file({"fc.forwards": torch.ones(2, dtype=torch.int64), "fc.min_sum": torch.zeros(2).double(), "fc.max_sum": torch.ones(2).double()}, tmp_path / "s")
    text = one_line(aerogel("quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--calibration", tmp_path / "s"))
    assert "no input of blocks.0.attn1.to_k was measured" in text
    assert not (tmp_path / "out").exists()


def test_interrupted_calibration(build, tiny_pipeline, tmp_path, captions):
    captions.write_text("red circle moves left\n" * 1000)
    process = subprocess.Popen([build / "aerogel", "quantize", tiny_pipeline, "-o", tmp_path / "out", "--scheme", "W8A8", "--captions", captions],
                               stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130 and out == b"" and error == b"aerogel: interrupted\n"
    assert not (tmp_path / "out").exists()


def test_help_has_examples(aerogel):
    for command in ("quantize", "dequantize", "inspect"):
        done = aerogel(command, "--help")
        assert done.returncode == 0 and f"aerogel {command} " in done.stdout and "Examples:" in done.stdout
