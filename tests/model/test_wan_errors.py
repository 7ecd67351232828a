"""Model folders and inputs that do not fit get one clear message each."""
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_models import edit_json, random_inputs, random_model, run_program

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    random_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def message(*arguments):
    done = run_program("transformer_forward", *arguments)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_all_kinds_of_misfits_in_one_message(folder):
    def change(tensors):
        del tensors["blocks.1.attn1.to_q.weight"]
        tensors["blocks.0.norm2.bias"] = torch.zeros(7)
        tensors["proj_out.bias"] = tensors["proj_out.bias"].to(torch.int32)
        tensors["surprise"] = torch.zeros(3)

    edit_weights(folder, change)
    text = message(folder)
    for part in ("1 missing", "blocks.1.attn1.to_q.weight", "2 tensors of the wrong shape or type",
                 "blocks.0.norm2.bias must be a float[64], got f32[7]", "got i32[16]", "1 unexpected", "surprise"):
        assert part in text


def test_many_misfits_are_counted_not_all_listed(folder):
    edit_json(folder / "config.json", num_layers=5)
    text = message(folder)
    assert "81 missing" in text and text.count("blocks.") == 5 and "..." in text


def test_ignorable_and_surplus_tensors(folder):
    edit_weights(folder, lambda tensors: tensors.update({"blocks.0.attn2.norm_added_q.weight": torch.ones(64)}))
    assert run_program("transformer_forward", folder).returncode == 0
    edit_json(folder / "config.json", num_layers=1)
    assert "unexpected tensors: blocks.1." in message(folder)


def test_qk_norm_null_makes_its_weights_optional(folder):
    edit_weights(folder, lambda tensors: tensors.pop("blocks.0.attn1.norm_q.weight"))
    assert "missing tensors: blocks.0.attn1.norm_q.weight" in message(folder)
    edit_json(folder / "config.json", qk_norm=None)
    assert run_program("transformer_forward", folder).returncode == 0


@pytest.mark.parametrize("change, expected", [
    ({"_class_name": "FluxTransformer2DModel"}, '_class_name must be one of WanTransformer3DModel, '),
    ({"num_layers": "four"}, 'num_layers must be a whole number from 1 to 1048576, got "four"'),
    ({"num_layers": 0}, "num_layers must be"), ({"num_layers": 2.5}, "num_layers must be"),
    ({"num_layers": 10**30}, "num_layers must be"), ({"num_layers": 10**6}, "hold only"),
    ({"ffn_dim": -96}, "ffn_dim must be"), ({"patch_size": [1, 2]}, "patch_size must be a list of three sizes"),
    ({"patch_size": [1, 0, 2]}, "patch_size[1] must be"), ({"attention_head_dim": 33}, "attention_head_dim must be even"),
    ({"qk_norm": "rms_norm"}, "qk_norm must be"), ({"eps": 0}, "eps must be"),
    ({"cross_attn_norm": "yes"}, "cross_attn_norm must be true or false"),
    ({"added_kv_proj_dim": 48}, "added_kv_proj_dim must be heads * head_dim = 64, got 48"),
    ({"pos_embed_seq_len": 6}, "pos_embed_seq_len needs image_dim")])
def test_config_values(folder, change, expected):
    edit_json(folder / "config.json", **change)
    assert expected in message(folder)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"num_layers": 2}'])
def test_config_that_is_none(folder, content):
    (folder / "config.json").write_text(content)
    assert "config.json" in message(folder)


def test_missing_files(folder, tmp_path):
    assert "nowhere does not exist: expected the folder of a pipeline" in message(tmp_path / "nowhere")
    assert "neither" in message(tmp_path)
    (folder / WEIGHTS).unlink()
    assert WEIGHTS in message(folder)


def test_config_defaults_are_those_of_diffusers(folder):
    """A key that is absent means what WanTransformer3DModel's own default means."""
    config = json.loads((folder / "config.json").read_text())
    for key in ("qk_norm", "eps", "image_dim", "added_kv_proj_dim", "pos_embed_seq_len", "cross_attn_norm"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    assert run_program("transformer_forward", folder).returncode == 0


@pytest.mark.parametrize("name, shape, expected", [
    ("hidden_states", (1, 4, 3, 5, 4), "multiples of patch_size [1,2,2]"),
    ("hidden_states", (1, 3, 3, 4, 4), "hidden_states must be f32[*,4,*,*,*]"),
    ("hidden_states", (4, 3, 4, 4), "hidden_states must be"),
    ("hidden_states", (1, 4, 0, 4, 4), "multiples of patch_size"),
    ("hidden_states", (1, 4, 33, 2, 2), "at most rope_max_seq_len = 32 patches"),
    ("timestep", (2,), "timestep must be f32[1], got f32[2]"),
    ("timestep", (1, 5), "timestep must be f32[1,12], got f32[1,5]"),
    ("encoder_hidden_states", (1, 9, 23), "encoder_hidden_states must be f32[1,*,24]"),
    ("encoder_hidden_states", (2, 9, 24), "encoder_hidden_states must be f32[1,*,24]"),
    ("encoder_hidden_states_image", (1, 9, 24), "takes no image embeddings"),
    ("condition", (1, 2, 3, 4, 2), "condition must be f32 of the batch and size of hidden_states f32[1,4,3,4,4], got f32[1,2,3,4,2]"),
    ("condition", (1, 2, 3, 4, 4), "hidden_states must be f32[*,4,*,*,*], got f32[1,6,3,4,4]")])
def test_inputs(folder, tmp_path, name, shape, expected):
    inputs = random_inputs(random_model(), (3, 2, 2))
    inputs[name] = torch.zeros(shape)
    save_file(inputs, tmp_path / "inputs.safetensors")
    assert expected in message(folder, tmp_path / "inputs.safetensors", tmp_path / "out.safetensors")


@pytest.mark.parametrize("pairs, image, text, expected", [
    (None, (1, 4, 40), 9, "last 512 context tokens as text, got 9 text and 4 image tokens"),
    (None, (2, 4, 40), 512, "encoder_hidden_states_image must be f32[1,*,40]"),
    (6, (2, 4, 40), 512, "two images must have pos_embed_seq_len = 6 tokens, got 2 x 4"),
    (6, (1, 3, 40), 512, "encoder_hidden_states_image must be f32[2,*,40]")])
def test_image_inputs(tmp_path, pairs, image, text, expected):
    model = random_model(image_dim=40, added_kv_proj_dim=64, pos_embed_seq_len=pairs)
    model.save_pretrained(tmp_path / "model")
    inputs = random_inputs(model, (3, 2, 2), text_len=text)
    save_file({**inputs, "encoder_hidden_states_image": torch.zeros(image)}, tmp_path / "inputs.safetensors")
    assert expected in message(tmp_path / "model", tmp_path / "inputs.safetensors", tmp_path / "out.safetensors")
