"""aerogel generate: outputs of every kind, the report, reproducibility, and clear errors without leftovers."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from terminal import shown_on_a_terminal

PROMPT = "red circle moves left, blue star turns"


def generate(aerogel, model, *flags, env=None):
    done = aerogel("generate", model, "--prompt", PROMPT, "--json", *flags, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def psnr(aerogel, a, b):
    done = aerogel("compare", a, b, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"][0]["psnr"]


def test_what_the_folder_says_holds_unless_a_flag_says_otherwise(aerogel, tiny_pipeline, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline, folder)
    index = json.loads((folder / "model_index.json").read_text())
    out = ["-o", tmp_path / "v.safetensors"]
    for defaults in ({"image_first": True, "stagger": 0.5}, {"image_first": False, "stagger": 0.0}, {}):
        (folder / "model_index.json").write_text(json.dumps({**index, "generation": index["generation"] | defaults}))
        told = [defaults.get("image_first", False), defaults.get("stagger", 0.0)]
        for flags, wanted in (([], told), (["--image-first"], [True, told[1]]), (["--no-image-first", "--stagger", 0.34], [False, 0.34])):
            report = generate(aerogel, folder, *out, *flags)
            assert [report["image_first"], report["stagger"]] == wanted and (report["first_frame_seconds"] > 0) == wanted[0]


def test_every_kind_of_output_shows_the_same_video(aerogel, tiny_pipeline, tmp_path):
    outputs = [tmp_path / name for name in ("v.safetensors", "frames", "v.mp4", "v.gif")]
    report = generate(aerogel, tiny_pipeline, *(flag for path in outputs for flag in ("-o", path)))
    assert report["outputs"] == [str(path) for path in outputs]
    video = load_file(outputs[0])["video"]
    assert video.shape == (3, 4, 32, 32)
    pixels = np.rint(np.clip((video + np.float32(1)) * np.float32(127.5), 0, 255)).astype(np.uint8).transpose(1, 2, 3, 0)
    frames = sorted(outputs[1].iterdir())
    assert [frame.name for frame in frames] == [f"frame_{i:04}.png" for i in range(4)]
    assert all((np.asarray(Image.open(path)) == frame).all() for path, frame in zip(frames, pixels))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "v.gif", "v.mp4", "v.safetensors"]
    generate(aerogel, tiny_pipeline, "-o", tmp_path / "other.safetensors", "--seed", 1)
    for path in outputs[2:]:  # lossy, and a random model's video is noise: closer to itself than to another one
        own, other = (psnr(aerogel, tmp_path / name, path) for name in ("v.safetensors", "other.safetensors"))
        assert own > other + 3


def test_report(aerogel, tiny_pipeline, tmp_path):
    report = generate(aerogel, tiny_pipeline, "-o", tmp_path / "v.safetensors", "--steps", 2, "--seed", 5)
    assert (report["steps"], report["seed"], report["guidance"], report["frames"]) == (2, 5, 2.0, 4)
    assert len(report["step_seconds"]) == 2
    stored = (tiny_pipeline / "transformer/diffusion_pytorch_model.safetensors").stat().st_size
    assert 0.9 * stored < report["weight_bytes"] <= stored
    assert report["peak_memory_bytes"] > report["weight_bytes"]


def test_the_page_lists_every_key_of_the_report(aerogel, tiny_pipeline, tmp_path):
    """Those before `videos` are there in every call, the others where they were given or happened."""
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    rows = page.partition("### The report")[2].partition("| --- |")[2].partition("\n\n")[0].splitlines()[1:]
    listed = [key for row in rows for key in re.findall(r"`(\w+)`", row.split(" | ")[0])]
    always = set(listed[:listed.index("videos")])
    assert set(generate(aerogel, tiny_pipeline, "-o", tmp_path / "v.safetensors", "--steps", 1)) == always
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": np.ones((1, 64), np.float32),
               "transformer.blocks.0.attn1.to_q.lora_B.weight": np.ones((64, 1), np.float32)}, tmp_path / "lora.safetensors")
    weights = tiny_pipeline / "transformer/diffusion_pytorch_model.safetensors"
    save_file({"first_frame": np.zeros((3, 1, 32, 32), np.float32)}, tmp_path / "first.safetensors")
    report = generate(aerogel, tiny_pipeline, "-o", tmp_path / "v.safetensors", "--steps", 2, "--batch", 2, "--negative-prompt", "blue star",
                      "--online", "W8A16", "--sparse", "ada_bsa", "--block-size", 16, "--cache", "taylor", "--timings", "--lora", tmp_path / "lora.safetensors",
                      "--transformer", weights, "--first-frame", tmp_path / "first.safetensors")
    told = {"videos", "negative_prompt", "transformer", "first_frame", "loras", "quantized", "sparse", "cache", "timings"}
    assert set(report) == always | told and told <= set(listed)
    code = (Path(__file__).parents[2] / "src/cli/generate_report.cpp").read_text()
    assert all(f'"{key}"' in code for key in listed)


def test_same_bits_for_any_number_of_threads(aerogel, tiny_pipeline, tmp_path):
    for threads in (1, 2, 3):
        path = tmp_path / f"{threads}.safetensors"
        generate(aerogel, tiny_pipeline, "-o", path, env={"AEROGEL_NUM_THREADS": str(threads)})
    bits = [(tmp_path / f"{threads}.safetensors").read_bytes() for threads in (1, 2, 3)]
    assert bits[0] == bits[1] == bits[2]
    generate(aerogel, tiny_pipeline, "-o", tmp_path / "seed.safetensors", "--seed", 1)
    assert (tmp_path / "seed.safetensors").read_bytes() != bits[0]


@pytest.mark.parametrize("scheme", ["W8A8_DYNAMIC", "W8A16"])
def test_quantized(aerogel, tiny_pipeline, tmp_path, scheme):
    done = aerogel("quantize", tiny_pipeline, "-o", tmp_path / "q", "--scheme", scheme)
    assert done.returncode == 0, done.stderr
    description = tmp_path / f"q/quant_model_description_{scheme.lower()}.json"
    plain = generate(aerogel, tiny_pipeline, "-o", tmp_path / "float.safetensors")
    report = generate(aerogel, tiny_pipeline, "-o", tmp_path / "v.safetensors", "--quantized", description)
    assert report["quantized"]["layers"][scheme] > 0
    assert report["weight_bytes"] < plain["weight_bytes"]
    a, b = (load_file(tmp_path / f"{name}.safetensors")["video"] for name in ("float", "v"))
    assert 0 < np.linalg.norm(a - b) < 0.1 * np.linalg.norm(a)


@pytest.mark.parametrize(("kind", "more"), [
    ("rf_v1", []), ("rf_v2", []), ("rf_v3", ["--block-size-kv", 32]), ("rf_v3", ["--sparse-precision", "fp8"]),
    ("rf_v3", ["--sparse-precision", "mix"]), ("rf_v2", ["--sparse-precision", "bf16"]), ("ada_bsa", []),
    ("ada_bsa", ["--cdf-threshold", 0.6, "--no-keep-sink", "--no-keep-recent"]),
])
def test_sparse_reports_every_head_of_every_call(aerogel, tiny_pipeline, tmp_path, kind, more):
    flags = ["--sparse", kind, "--sparsity", 0.7, "--block-size", 16, "--frames", 16, "--size", "32x32", "--start-step", 1, *more]
    report = generate(aerogel, tiny_pipeline, "-o", tmp_path / "v.safetensors", *flags)
    sparse = report["sparse"]
    assert sparse["type"] == kind
    calls = [call for call in sparse["calls"] if call["step"] >= 1]
    assert {(call["step"], call["block"], call["conditional"]) for call in calls} == {
        (step, block, conditional) for step in (1, 2) for block in (0, 1) for conditional in (False, True)
    }
    heads = [head for call in calls for head in call["heads"]]
    assert len(heads) == 2 * len(calls)
    assert all(0 < head["density"] < 1 for head in heads)
    assert sparse["predict_seconds"] > 0 and sparse["attention_seconds"] > 0


def test_a_trial_that_ends_before_anything_is_sparse(aerogel, tiny_pipeline, tmp_path):
    flags = ["--sparse", "rf_v2", "--start-step", 1, "--steps", 1, "-o", tmp_path / "v.safetensors"]
    sparse = generate(aerogel, tiny_pipeline, *flags)["sparse"]
    assert (sparse["density"], sparse["calls"], sparse["steps"]) == (1.0, [], [])
    assert "no step was sparse" in aerogel("generate", tiny_pipeline, "--prompt", PROMPT, *flags).stdout


def test_prompt_embeds_replace_the_prompt(aerogel, tiny_pipeline, tmp_path):
    tables = load_file(tiny_pipeline / "text_encoder/model.safetensors")
    words = json.loads((tiny_pipeline / "text_encoder/vocabulary.json").read_text())["words"]
    slots = ["red", "circle", "moves", "left", "blue", "star", "turns", "<pad>"]
    table, position = tables["word_embedding.weight"], tables["position_embedding.weight"]
    embeds = {
        "prompt_embeds": (table[[words.index(word) for word in slots]] + position)[None],
        "negative_prompt_embeds": (table[[0] * 8] + position)[None],
    }
    save_file(embeds, tmp_path / "embeds.safetensors")
    generate(aerogel, tiny_pipeline, "-o", tmp_path / "a.safetensors")
    done = aerogel("generate", tiny_pipeline, "--prompt-embeds", tmp_path / "embeds.safetensors", "-o", tmp_path / "b.safetensors")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for flags, message in ((["--prompt-embeds", tmp_path / "embeds.safetensors"], "says nothing where embeddings are given"),
                           (["--prompt", PROMPT], "have no layers to take from pair.json")):
        done = aerogel("generate", tiny_pipeline, *flags, "--text-encoder-quantized", "pair.json", "-o", tmp_path / "c.safetensors")
        assert done.returncode == 1 and message in done.stderr and not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", "green dog runs"], "red"),
        (["--size", "30x32"], "30"),
        (["--size", "big"], "WIDTHxHEIGHT"),
        (["--steps", "0"], "steps"),
        (["--sampler", "magic"], "unipc"),
        (["--sparse", "rf_v9"], "rf_v1"),
        (["--sparse", "rf_v2", "--sparsity", "1.5"], "sparsity"),
        (["--sparse", "rf_v2", "--sparse-precision", "fp8"], "rf_v3"),
        (["--sparse", "rf_v3", "--sparse-precision", "fp4"], "none, fp8, mix"),
        (["--sparse", "ada_bsa", "--cdf-threshold", "0"], "cdf_threshold"),
        (["--quantized", "missing.json"], "missing.json"),
        (["-o", "video.avi"], ".mp4"),
    ],
)
def test_bad_input_is_one_clear_line(aerogel, tiny_pipeline, tmp_path, flags, message):
    arguments = flags if "--prompt" in flags else ["--prompt", PROMPT, *flags]
    if "-o" not in flags:
        arguments = [*arguments, "-o", "v.safetensors"]
    done = aerogel("generate", tiny_pipeline, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_ffmpeg_is_named(aerogel, tiny_pipeline, tmp_path):
    """Before the work: what needs no ffmpeg is not made either."""
    for flags in (["-o", tmp_path / "v.mp4"], ["--frames", 1, "-o", tmp_path / "v.jpg"]):
        for path in ("/nowhere", "", "/nowhere::/no"):
            done = aerogel("generate", tiny_pipeline, "--prompt", PROMPT, "--steps", 1, *flags, "-o", tmp_path / "v.safetensors", env={"PATH": path},
                           cwd=tmp_path)
            assert done.returncode == 1
            assert done.stderr == "aerogel: [subprocess] cannot start 'ffmpeg': No such file or directory (is it installed and in PATH?)\n"
            assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".JPG", ".PNG"])
def test_pictures_of_every_kind(aerogel, tiny_pipeline, tmp_path, ending):
    path = tmp_path / f"p{ending}"
    generate(aerogel, tiny_pipeline, "--frames", 1, "--size", "64x32", "-o", path, "-o", tmp_path / "p.safetensors")
    with Image.open(path) as picture:
        assert picture.size == (64, 32)
        luma = np.asarray(picture.convert("L")).astype(float)  # WebP has fewer pixels of colour, and this is noise
    video = load_file(tmp_path / "p.safetensors")["video"]
    exact = np.clip((video[:, 0].transpose(1, 2, 0) + 1) * 127.5, 0, 255) @ [0.299, 0.587, 0.114]
    print(f"{ending}: {np.abs(luma - exact).mean():.1f}")
    assert np.abs(luma - exact).mean() < (1 if ending.lower() == ".png" else 8) < np.abs(luma - exact[:, ::-1]).mean() / 4


def test_a_png_tells_how_it_was_made(aerogel, tiny_pipeline, tmp_path):
    flags = ["--frames", 1, "--steps", 2, "--seed", 7, "--guidance", 1.5, "--size", "64x32", "--online", "W8A16", "--negative-prompt", "blue star"]
    for name, frame in (("p.png", ""), ("frames", "frame_0000.png")):
        generate(aerogel, tiny_pipeline, *flags, "-o", tmp_path / name)
        told = Image.open(tmp_path / name / frame if frame else tmp_path / name).text["parameters"].splitlines()
        assert told[:2] == [PROMPT, "Negative prompt: blue star"]
        assert told[2].startswith("Steps: 2, Sampler: unipc, CFG scale: 1.5, Shift: 3, Seed: 7, Size: 64x32, Model: ") and "Scheme: W8A16" in told[2]


def test_progress_of_every_stage(build, tiny_pipeline, tmp_path):
    """On a terminal: a bar for loading, text and steps, with an estimate once there is something to go by."""
    command = [build / "aerogel", "generate", tiny_pipeline, "--prompt", PROMPT, "--online", "W8A16", "-o", tmp_path / "v.safetensors"]
    lines = shown_on_a_terminal(command).split("\r\n")
    bars = {line.split(" [")[0].strip("\r"): line.split("\r")[1:] for line in lines if " [" in line}
    assert list(bars) == ["load text_encoder", "encode prompt", "load transformer", "generate"]
    assert len(bars["load transformer"]) > 10  # layer by layer
    for bar in bars.values():
        assert "estimating" in bar[0] and re.search(r"\[#{30}\] \d+/\d+ 0\.00 s left", bar[-1]), bar
    steps = bars["generate"][1:]
    assert [re.search(r"\] (\d)/3 \d.* left \d.* s/step", step)[1] for step in steps] == ["1", "2", "3"]


def test_interrupt_leaves_no_mess(build, tiny_pipeline, tmp_path):
    command = [build / "aerogel", "generate", tiny_pipeline, "--prompt", PROMPT, "--steps", "1000", "--frames", "64"]
    command += ["-o", tmp_path / "v.mp4"]
    process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True, env={**os.environ})
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in messages
    assert not list(tmp_path.iterdir())
