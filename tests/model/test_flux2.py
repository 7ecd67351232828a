"""The native Flux2 transformer against diffusers, block by block, and what the command does with it."""
import json
import os
from pathlib import Path

import pytest
import torch
from flux2_models import random_inputs, random_model, reference
from safetensors.torch import load_file, save_file
from wan_models import edit_json, error, forward, run_program

BOUND = 1e-5
WEIGHTS = "diffusion_pytorch_model.safetensors"
AEROGEL = Path(os.environ.get("AEROGEL_BUILD", Path(__file__).resolve().parents[2] / "build/release")) / "aerogel"

CASES = {
    "small": dict(size=(3, 5)),
    "one_token": dict(size=(1, 1), text_len=1),
    "no_text": dict(size=(2, 3), text_len=0),
    "long_text": dict(size=(1, 3), text_len=67),
    "batch_of_three": dict(size=(3, 2), batch=3),
    "three_heads_of_24": dict(model=dict(num_attention_heads=3, attention_head_dim=24, axes_dims_rope=(2, 10, 8, 4)),
                              size=(4, 3)),
    "one_head_of_128": dict(model=dict(num_attention_heads=1, attention_head_dim=128, axes_dims_rope=(32,) * 4),
                            size=(2, 7)),
    "odd_mlp": dict(model=dict(mlp_ratio=2.3, rope_theta=77, eps=1e-3), size=(3, 3)),
    "more_out_channels": dict(model=dict(out_channels=300, in_channels=5), size=(3, 2)),
    "guidance": dict(model=dict(guidance_embeds=True), size=(3, 2), batch=2, guidance=True),
    "guidance_left_out": dict(model=dict(guidance_embeds=True), size=(3, 2)),
    "odd_channels_of_time": dict(model=dict(timestep_guidance_channels=33), size=(2, 2)),
    "one_block_of_a_kind": dict(model=dict(num_layers=1, num_single_layers=1), size=(3, 3)),
}


def check(model, folder, inputs, work, **environment):
    ours = forward(folder, inputs, work, **environment)
    double = reference(model, inputs, torch.float64)
    assert set(ours) == set(double)
    for name, exact in double.items():
        assert ours[name].shape == exact.shape
        print(f"{name}: {error(ours[name], exact):.1e}")
        assert error(ours[name], exact) <= BOUND, name


@pytest.mark.parametrize("name", CASES)
def test_every_block_matches_diffusers(name, tmp_path):
    case = dict(CASES[name])
    model = random_model(**case.pop("model", {}))
    model.save_pretrained(tmp_path / "model")
    check(model, tmp_path / "model", random_inputs(model, **case), tmp_path)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_cpu_levels(level, tmp_path):
    told = run_program("environment_report", AEROGEL_CPU=level)
    if "asks for more than this CPU has" in told.stderr:
        pytest.skip(told.stderr.strip())
    model = random_model()
    model.save_pretrained(tmp_path / "model")
    check(model, tmp_path / "model", random_inputs(model, (5, 7), batch=2), tmp_path, AEROGEL_CPU=level)


def test_half_shards_in_a_pipeline_folder(tmp_path):
    half = random_model().to(torch.bfloat16)
    half.save_pretrained(tmp_path / "pipeline/transformer", max_shard_size="20KB")
    assert len(list((tmp_path / "pipeline/transformer").glob("*.safetensors"))) > 2
    check(half, tmp_path / "pipeline", random_inputs(half, (4, 3)), tmp_path)


def test_linear_names_are_those_of_diffusers(tmp_path):
    model = random_model(guidance_embeds=True)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    stored, *names = run_program("transformer_forward", tmp_path).stdout.split()
    assert names == [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert int(stored) == sum(v.numel() * v.element_size() for v in model.state_dict().values())


@pytest.mark.parametrize("broken", ["rope", "text", "norm", "added_norm", "time", "modulation", "mlp"])
def test_the_bound_notices(broken):
    """Each part, changed a little in the reference, moves the output far beyond the bound."""
    model = random_model()
    inputs = random_inputs(model, (3, 4))
    exact = reference(model, inputs, torch.float64)["output"]
    with torch.no_grad():
        if broken == "rope":
            model.pos_embed.theta += 20
        elif broken == "text":
            inputs["encoder_hidden_states"][:, 0] += 1e-2
        elif broken == "norm":
            model.single_transformer_blocks[1].attn.norm_k.weight += 1e-2
        elif broken == "added_norm":
            model.transformer_blocks[0].attn.norm_added_q.weight += 1e-2
        elif broken == "time":
            inputs["timestep"] += 0.05
        elif broken == "modulation":
            model.double_stream_modulation_txt.linear.weight[-1] += 1e-2
        elif broken == "mlp":
            model.single_transformer_blocks[0].attn.to_qkv_mlp_proj.weight[-1] += 1e-2
    assert error(reference(model, inputs, torch.float64)["output"], exact) > 2 * BOUND


@pytest.fixture
def folder(tmp_path):
    random_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def message(*arguments):
    done = run_program("transformer_forward", *arguments)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("change, expected", [
    ({"patch_size": 2}, "patch_size must be a whole number from 1 to 1, got 2"),
    ({"num_layers": "four"}, 'num_layers must be a whole number from 1 to 1048576, got "four"'),
    ({"num_single_layers": 10**6}, "hold only"), ({"num_layers": 3}, "missing tensors: transformer_blocks.2."),
    ({"num_single_layers": 1}, "unexpected tensors: single_transformer_blocks.1."),
    ({"axes_dims_rope": [4, 4, 4]}, "axes_dims_rope must be a list of four sizes"),
    ({"axes_dims_rope": [4, 4, 4, 6]}, "axes_dims_rope must be even and sum to attention_head_dim = 16, got [4,4,4,6]"),
    ({"axes_dims_rope": [3, 5, 4, 4]}, "axes_dims_rope must be even"), ({"eps": 0}, "eps must be"),
    ({"mlp_ratio": 0}, "mlp_ratio must be"), ({"mlp_ratio": "3"}, "mlp_ratio must be"),
    ({"rope_theta": 0}, "rope_theta must be"), ({"guidance_embeds": "no"}, "guidance_embeds must be true or false"),
    ({"guidance_embeds": True}, "missing tensors: time_guidance_embed.guidance_embedder.linear_1.weight"),
    ({"joint_attention_dim": 25}, "context_embedder.weight must be a float[32,25], got f32[32,24]")])
def test_config_values(folder, change, expected):
    edit_json(folder / "config.json", **change)
    assert expected in message(folder)


def test_config_defaults_are_those_of_diffusers(folder):
    config = json.loads((folder / "config.json").read_text())
    for key in ("patch_size", "out_channels", "mlp_ratio", "rope_theta", "eps"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    assert run_program("transformer_forward", folder).returncode == 0
    del config["joint_attention_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "context_embedder.weight must be a float[32,15360]" in message(folder)


@pytest.mark.parametrize("name, value, expected", [
    ("hidden_states", torch.zeros(1, 8, 2, 3, 2), "hidden_states must be f32[*,8,1,*,*], got f32[1,8,2,3,2]"),
    ("hidden_states", torch.zeros(1, 8, 1, 0, 2), "the image is empty"),
    ("timestep", torch.zeros(2), "timestep must be f32[1], got f32[2]"),
    ("encoder_hidden_states", torch.zeros(1, 9, 23), "encoder_hidden_states must be f32[1,*,24]"),
    ("guidance", torch.ones(1), "takes no guidance"),
    ("encoder_hidden_states", torch.full((1, 9, 24), torch.nan), "the input 'encoder_hidden_states' f32[1,9,24] is not")])
def test_inputs(folder, tmp_path, name, value, expected):
    inputs = {**random_inputs(random_model(), (3, 2)), name: value}
    save_file(inputs, tmp_path / "inputs.safetensors")
    assert expected in message(folder, tmp_path / "inputs.safetensors", tmp_path / "out.safetensors")


@pytest.mark.parametrize("layer, expected", [
    ("single_transformer_blocks.0.attn.to_out", "the output of block 2 is not finite"),
    ("transformer_blocks.1.ff_context.linear_in", "the output of block 1 is not finite"),
    ("time_guidance_embed.timestep_embedder.linear_1", "the timestep embedding is not finite"),
    ("x_embedder", "the embedding of image and text is not finite"),
    ("proj_out", "the output of the model is not finite")])
def test_weights_that_are_not_finite_are_named(folder, tmp_path, layer, expected):
    tensors = load_file(folder / WEIGHTS)
    tensors[layer + ".weight"][0, 0] = torch.nan
    save_file(tensors, folder / WEIGHTS)
    save_file(random_inputs(random_model(), (3, 2)), tmp_path / "inputs.safetensors")
    text = message(folder, tmp_path / "inputs.safetensors", tmp_path / "out.safetensors")
    assert expected in text and f"'{layer}.weight'" in text
