"""A tiny random model of the demo's kind, for the benchmarks that measure quality."""

import json
import pathlib
import shutil
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "examples/train_demo"), str(ROOT / "bench")]
import model as demo  # noqa: E402

TINY = {**demo.CONFIG, "num_attention_heads": 2, "attention_head_dim": 32, "text_dim": 16, "freq_dim": 32, "ffn_dim": 128, "num_layers": 1}


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny = demo.DemoModel(TINY).initialise(0)
    torch.nn.init.normal_(tiny.transformer.proj_out.weight, std=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "CONFIG", TINY)
        demo.save_folder(folder, tiny.transformer.state_dict(), tiny.captions.state_dict())
    return folder


@pytest.fixture(scope="session")
def short_demo(tiny_demo, tmp_path_factory):
    """The same, but videos are of 2 frames of 16 x 16 pixels by default."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(tiny_demo, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["generation"] |= {"num_frames": 2, "height": 16, "width": 16, "num_inference_steps": 2}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
