"""bench/fidelity.py on a tiny model: all variants run, and the figures behave."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = ["<pad>", "red", "circle", "moves", "left", "blue", "star", "turns", "yellow", "square", "up", "green", "triangle", "right"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    WanTransformer3DModel(patch_size=(1, 4, 4), num_attention_heads=2, attention_head_dim=32, in_channels=3, out_channels=3, text_dim=16,
                          freq_dim=32, ffn_dim=128, num_layers=1, rope_max_seq_len=64).save_pretrained(folder / "transformer")
    (folder / "text_encoder").mkdir()
    vocabulary = {"words": WORDS, "pad": "<pad>", "max_length": 8, "slots_per_object": 4, "max_objects": 2}
    (folder / "text_encoder/vocabulary.json").write_text(json.dumps(vocabulary))
    save_file({"word_embedding.weight": torch.randn(len(WORDS), 16), "position_embedding.weight": torch.randn(8, 16)},
              folder / "text_encoder/model.safetensors")
    generation = {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 1.0, "flow_shift": 3.0}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "generation": generation}))
    return folder


def test_every_variant(build, model, tmp_path):
    command = [sys.executable, ROOT / "bench/fidelity.py", "--aerogel", build / "aerogel", "--model", model, "--output", tmp_path,
               "--steps", 2, "--frames", 2, "--captions", "red circle moves left", "--json", tmp_path / "rows.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    listed = json.loads(subprocess.run([build / "aerogel", "quantize", "--list", "--json"], capture_output=True, text=True, check=True).stdout)
    assert {r["scheme"] for r in listed["schemes"]} <= {name.partition(",")[0] for name in rows}
    eight, four, ulp = (rows[n]["psnr"] for n in ("W8A16", "W4A16", "float, weights moved by 1 ulp"))
    assert four < eight < ulp
    assert rows["W4A16"]["bytes"] < rows["W8A16"]["bytes"] < rows["float"]["bytes"]
    assert rows["W4A4_DYNAMIC, rotated, low rank 32"]["error_mean"] < rows["W4A4_DYNAMIC"]["error_mean"]
    page = (tmp_path / "fidelity.md").read_text()
    assert all(f"| {name} |" in page for name in rows) and (tmp_path / "fidelity.png").stat().st_size > 1000
