"""bench/fidelity.py on a tiny model: all variants run, and the figures behave."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples/train_demo"), str(ROOT / "bench")]
import held_out  # noqa: E402
import model as demo  # noqa: E402
import train  # noqa: E402

TINY = {**demo.CONFIG, "num_attention_heads": 2, "attention_head_dim": 32, "text_dim": 16, "freq_dim": 32, "ffn_dim": 128, "num_layers": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny = demo.DemoModel(TINY).initialise(0)
    torch.nn.init.normal_(tiny.transformer.proj_out.weight, std=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CONFIG", TINY)
        demo.save_folder(folder, tiny.transformer.state_dict(), tiny.captions.state_dict())
    index = json.loads((folder / "model_index.json").read_text())
    index["generation"] |= {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 2}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_held_out_loss_is_that_of_the_training_loop(model):
    ours = demo.load_folder(model)
    trainer = train.Trainer({"seed": 1, "device": "cpu", "matrix_lr": 0, "other_lr": 0, "weight_decay": 0, "compile": False}, TINY)
    trainer.start_from(model)
    trainer.model.autocast = False
    figures = held_out.HeldOut(ours, 2).of_model(ours)
    assert figures["velocity_error"] == 0 and abs(figures["loss"] / trainer.held_out(videos=2) - 1) < 1e-5


def test_every_variant(build, model, tmp_path):
    command = [sys.executable, ROOT / "bench/fidelity.py", "--aerogel", build / "aerogel", "--model", model, "--output", tmp_path,
               "--steps", 2, "--frames", 2, "--held-out", 1, "--captions", "red circle moves left", "--json", tmp_path / "rows.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    listed = json.loads(subprocess.run([build / "aerogel", "quantize", "--list", "--json"], capture_output=True, text=True, check=True).stdout)
    assert {r["scheme"] for r in listed["schemes"]} <= {name.partition(",")[0] for name in rows}
    assert rows["W8A16"]["velocity_error"] < 0.02 < rows["W4A4_DYNAMIC"]["velocity_error"] and rows["float"]["velocity_error"] == 0
    assert rows["float, weights moved by 1 ulp"]["velocity_error"] < 1e-5 > abs(rows["PyTorch float32"]["loss"] / rows["float"]["loss"] - 1)
    assert rows["PyTorch float32"]["bytes"] == rows["float"]["bytes"]
    assert rows["torchao int8 weight-only"]["bytes"] == pytest.approx(rows["W8A16"]["bytes"], rel=0.05)
    assert rows["torchao int8 dynamic"]["error_mean"] < 0.02 < rows["torchao int4 weight-only, groups of 32"]["error_mean"]
    eight, four, ulp = (rows[n]["psnr"] for n in ("W8A16", "W4A16", "float, weights moved by 1 ulp"))
    assert four < eight < ulp
    assert rows["W4A16"]["bytes"] < rows["W8A16"]["bytes"] < rows["float"]["bytes"]
    assert rows["W4A4_DYNAMIC, rotated, low rank 32"]["error_mean"] < rows["W4A4_DYNAMIC"]["error_mean"]
    page = (tmp_path / "fidelity.md").read_text()
    assert all(f"| {name} |" in page for name in rows) and (tmp_path / "fidelity.png").stat().st_size > 1000
