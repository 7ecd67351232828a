"""A result that is not finite is an error that names the first place where it arose, and leaves no file."""
import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

MODEL = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def damaged(tiny_pipeline, tmp_path):
    """damaged("blocks.1.ffn.net.2.weight", nan) -> a pipeline with that value in the tensor's fourth place."""
    def make(name, value):
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_pipeline, folder, dirs_exist_ok=True)
        file = MODEL if name != "word_embedding.weight" and name != "position_embedding.weight" else "text_encoder/model.safetensors"
        tensors = load_file(folder / file)
        tensors[name].view(-1)[3] = value
        save_file(tensors, folder / file)
        return folder

    return make


@pytest.fixture
def records(tmp_path):
    def make(name=None, value=0.0):
        tensors = {"hidden_states": torch.randn(2, 3, 1, 8, 8), "timestep": torch.tensor([900.0, 100.0]), "encoder_hidden_states": torch.randn(2, 8, 16)}
        if name is not None:
            tensors[name][1].view(-1)[0] = value
        save_file(tensors, tmp_path / "records.safetensors")
        return tmp_path / "records.safetensors"

    return make


def fails(done, *words):
    assert done.returncode == 1 and not done.stdout and done.stderr.count("\n") == 1 and done.stderr.startswith("aerogel: ["), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


VALUES = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
# Vectors and tables are looked at when the model is loaded, matrices once a result is not finite.
LOADED = ["blocks.1.attn1.norm_q.weight", "blocks.0.norm2.bias", "blocks.1.ffn.net.2.bias", "blocks.0.scale_shift_table", "scale_shift_table", "proj_out.bias",
          "patch_embedding.bias", "condition_embedder.time_proj.bias"]
PLACES = {
    "blocks.0.attn1.to_q.weight": "the output of block 0", "blocks.1.attn2.to_k.weight": "the output of block 1",
    "blocks.1.attn2.to_out.0.weight": "the output of block 1", "blocks.1.ffn.net.0.proj.weight": "the output of block 1",
    "blocks.0.ffn.net.2.weight": "the output of block 0", "proj_out.weight": "the output of the model", "patch_embedding.weight": "patch_embedding",
    "condition_embedder.time_embedder.linear_1.weight": "the timestep embedding", "condition_embedder.text_embedder.linear_2.weight": "the text embedding",
}


@VALUES
@pytest.mark.parametrize("name", [*LOADED, *PLACES])
def test_weights(*, aerogel, damaged, records, tmp_path, name, value):
    model, out = damaged(name, value), tmp_path / "v.safetensors"
    for arguments in (["generate", model, "--prompt", "red circle", "-o", out], ["forward", model, "--inputs", records(), "-o", out]):
        done = aerogel(*arguments)
        fails(done, f"'{name}'", "is not finite", "3] is ")
        if name in PLACES:
            fails(done, "[wan] ", PLACES[name], "in step 0: ")
    assert not out.exists()


@pytest.mark.parametrize("command", ["mine", "calibrate", "sparse", "quantized", "quantized attention", "static"])
def test_weights_in_other_commands(*, aerogel, damaged, tiny_pipeline, records, tmp_path, command):
    name = "blocks.1.attn1.to_v.weight"
    model, out = damaged(name, math.nan), tmp_path / "out.safetensors"
    generate = ["generate", model, "--prompt", "red circle", "-o", out]
    words = (f"'{name}'", "is not finite")
    if command == "static":  # int8 arithmetic has no NaN
        captions = tmp_path / "captions"
        captions.write_text("red circle\n")
        assert aerogel("quantize", tiny_pipeline, "-o", tmp_path / "pair", "--scheme", "W8A8", "--steps", "1", "--captions", captions, "--include", "blocks.*.to_out.*").returncode == 0
    done = aerogel(*{
        "mine": ["mine", model, "--prompt", "red circle", "-o", out],
        "calibrate": ["quantize", model, "-o", tmp_path / "pair", "--scheme", "W8A8", "--recorded-inputs", records(), "--save-calibration", out],
        "sparse": [*generate, "--sparse", "rf_v2", "--block-size", "16"],
        "quantized": [*generate, "--online", "W8A8_DYNAMIC", "--include", "blocks.*.ffn.*"],
        "quantized attention": [*generate, "--online", "W8A8_DYNAMIC", "--include", "blocks.*.ffn.*", "--fa", "INT8_DYNAMIC"],
        "static": [*generate, "--quantized", tmp_path / "pair"],
    }[command])
    fails(done, *words if command not in ("calibrate",) else ("is not finite",))
    assert not out.exists()


@VALUES
@pytest.mark.parametrize("name", ["blocks.0.attn1.to_q.weight", "blocks.1.ffn.net.2.bias", "blocks.1.attn1.norm_q.weight", "proj_out.weight"])
@pytest.mark.parametrize("scheme", ["W8A16", "W8A8_DYNAMIC", "W4A4_MXFP4", "W8A16_FP8", "W4A16"])
def test_quantize(*, aerogel, damaged, tmp_path, scheme, name, value):
    done = aerogel("quantize", damaged(name, value), "-o", tmp_path / "out", "--scheme", scheme)
    fails(done, "[quantize] ", f"'{name}'", "3] is ")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("options", [["--online", "W8A8_DYNAMIC"], ["--online", "W4A4_MXFP4_SVD"]])
@pytest.mark.parametrize("name", ["blocks.0.attn1.to_q.weight", "blocks.0.attn1.to_q.bias"])
def test_quantizing_in_memory(aerogel, damaged, tmp_path, options, name):
    done = aerogel("generate", damaged(name, math.nan), "--prompt", "red", "-o", tmp_path / "v.safetensors", *options)
    fails(done, f"'{name}'", "is not finite")


@VALUES
@pytest.mark.parametrize("name", ["hidden_states", "timestep", "encoder_hidden_states"])
def test_recorded_inputs(*, aerogel, tiny_pipeline, records, tmp_path, name, value):
    file, out = records(name, value), tmp_path / "v.safetensors"
    fails(aerogel("forward", tiny_pipeline, "--inputs", file, "-o", out), f"[wan] the input '{name}'", "is not finite: element [0")
    fails(aerogel("quantize", tiny_pipeline, "-o", tmp_path / "pair", "--scheme", "W8A8", "--recorded-inputs", file), f"'{name}'", "is not finite")
    assert not out.exists()


@VALUES
def test_embeddings(aerogel, tiny_pipeline, damaged, tmp_path, value):
    embeds = torch.randn(1, 8, 16)
    embeds[0, 2, 5] = value
    save_file({"prompt_embeds": embeds}, tmp_path / "e.safetensors")
    out = tmp_path / "v.safetensors"
    fails(aerogel("generate", tiny_pipeline, "--prompt-embeds", tmp_path / "e.safetensors", "-o", out), "the input 'encoder_hidden_states'", "element [0,2,5] is ")
    fails(aerogel("generate", damaged("word_embedding.weight", value), "--prompt", "red", "-o", out), "is not finite")
    save_file({"first_frame": torch.full((3, 1, 32, 32), value)}, tmp_path / "f.safetensors")
    fails(aerogel("generate", tiny_pipeline, "--prompt", "red", "--first-frame", tmp_path / "f.safetensors", "-o", out), "the input 'hidden_states'")
    assert not out.exists()


def test_guidance_that_is_too_strong(aerogel, tiny_pipeline, tmp_path):
    done = aerogel("generate", tiny_pipeline, "--prompt", "red", "--guidance", "1e39", "-o", tmp_path / "v.safetensors")
    fails(done, "the video is not finite after step 0", "guidance 1e+39")
    index = json.loads((tiny_pipeline / "model_index.json").read_text())
    assert index["generation"]["guidance_scale"] == 2.0
    assert not (tmp_path / "v.safetensors").exists()


def test_numbers_that_grow_too_large(aerogel, damaged, tmp_path):
    """Finite weights whose products are not."""
    done = aerogel("generate", damaged("blocks.1.ffn.net.2.bias", 3e38), "--prompt", "red", "-o", tmp_path / "v.safetensors")
    if done.returncode == 1:
        fails(done, "is not finite in step 0: inputs and weights are finite, but the values grow too large")
    else:  # the norm behind it may bring it back
        assert all(t.isfinite().all() for t in load_file(tmp_path / "v.safetensors").values())


@VALUES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_compare_says_so(aerogel, tmp_path, value, dtype):
    good = torch.zeros(2, 3, dtype=dtype)
    bad = good.clone()
    bad[1, 1] = value
    save_file({"x": good}, tmp_path / "good.safetensors")
    save_file({"x": bad}, tmp_path / "bad.safetensors")
    for json_flag in ([], ["--json"]):
        fails(aerogel("compare", tmp_path / "good.safetensors", tmp_path / "bad.safetensors", *json_flag), "[compare] 'x'", "element [1,1] is ", "(the second)")
        fails(aerogel("compare", tmp_path / "bad.safetensors", tmp_path / "good.safetensors", *json_flag), "(the first)")
