"""The examples of every --help, as they are typed, on a tiny model in the place of the demo's."""
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

COMMANDS = ["inspect", "quantize", "tune", "dequantize", "generate", "forward", "mine", "compare"]
NOT_HERE = ["Z-Image-Turbo", "Wan2.2/"]  # models that people download
WORDS = ["yellow", "green", "cyan", "purple", "triangle", "square", "right", "up", "down"]  # of the captions, beside those of the tiny model


def examples(aerogel, command):
    text = aerogel(command, "--help").stdout.split("Examples:")[1].replace("\\\n", " ")
    found = re.findall(r"^  (aerogel .*)$", text, re.M)
    assert any(line.startswith(f"aerogel {command} ") for line in found)
    return found


@pytest.fixture(scope="module")
def place(aerogel, tiny_pipeline, tmp_path_factory):
    """What the examples take for granted."""
    folder = tmp_path_factory.mktemp("examples")
    model = shutil.copytree(tiny_pipeline, folder / "examples/shapes_dit")
    vocabulary = json.loads((model / "text_encoder/vocabulary.json").read_text())
    vocabulary["words"] += WORDS
    (model / "text_encoder/vocabulary.json").write_text(json.dumps(vocabulary))
    tables = load_file(model / "text_encoder/model.safetensors")
    tables["word_embedding.weight"] = torch.randn(len(vocabulary["words"]), 16)
    save_file(tables, model / "text_encoder/model.safetensors")
    (model / "captions.txt").write_text("red circle moves left\nblue star turns\n")
    shutil.copy(model / "transformer/diffusion_pytorch_model.safetensors", folder / "model.safetensors")
    save_file(dict(hidden_states=torch.randn(2, 3, 4, 16, 16), timestep=torch.tensor([900.0, 200.0]),
                   encoder_hidden_states=torch.randn(2, 8, 16)), folder / "recorded.safetensors")
    for line in ("quantize examples/shapes_dit -o quantized --scheme W8A8_DYNAMIC",
                 "mine examples/shapes_dit -o profile.json",
                 "generate examples/shapes_dit --prompt red -o float.mp4 -o quantized.mp4 -o float.safetensors -o quantized.safetensors",
                 "forward examples/shapes_dit --inputs recorded.safetensors -o int8.safetensors",
                 "tune examples/shapes_dit -o recipe.yaml --max-error 0.5 --records 3"):
        done = aerogel(*line.split(), cwd=folder)
        assert done.returncode == 0, (line, done.stderr)
    (folder / "recipe.yaml.measurements.json").unlink()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_examples(build, aerogel, place, tmp_path, command):
    """One after the other."""
    here = shutil.copytree(place, tmp_path / "here")
    env = {**os.environ, "PATH": f"{build.resolve()}{os.pathsep}{os.environ['PATH']}"}
    for line in examples(aerogel, command):
        line = line.replace("40%", "60%")  # what stays float is a larger share of the tiny model
        if any(name in line for name in NOT_HERE):
            continue
        if "-o quantized " in line:
            shutil.rmtree(here / "quantized")
        done = subprocess.run(["sh", "-c", line], cwd=here, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, (line, done.stderr)
        if "--json" in line:
            json.loads(done.stdout)
        words = shlex.split(line)
        for flag, name in zip(words, words[1:], strict=False):
            assert flag not in ("-o", "--plot", "--html") or (here / name).exists(), (line, name)
