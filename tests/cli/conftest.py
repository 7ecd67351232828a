"""A tiny random pipeline folder, so that generating takes milliseconds."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

WORDS = ["<pad>", "red", "blue", "circle", "star", "moves", "left", "turns"]


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """2 blocks, 2 heads of 32, pixels in patches of 4x4, random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 4, 4), num_attention_heads=2, attention_head_dim=32, in_channels=3, out_channels=3, text_dim=16,
        freq_dim=32, ffn_dim=96, num_layers=2, rope_max_seq_len=64,
    )
    model.save_pretrained(folder / "transformer")
    (folder / "text_encoder").mkdir()
    vocabulary = {"words": WORDS, "pad": "<pad>", "max_length": 8, "slots_per_object": 4, "max_objects": 2}
    (folder / "text_encoder/vocabulary.json").write_text(json.dumps(vocabulary))
    tables = {"word_embedding.weight": torch.randn(len(WORDS), 16), "position_embedding.weight": torch.randn(8, 16)}
    save_file(tables, folder / "text_encoder/model.safetensors")
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0, "prediction_type": "flow_prediction"}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    generation = {"num_frames": 4, "height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 2.0, "flow_shift": 3.0}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "generation": generation}))
    return folder
