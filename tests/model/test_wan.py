"""The native Wan transformer against diffusers, block by block, over the shapes the architecture can take."""
import pytest
import torch
from wan_models import error, forward, random_inputs, random_model, reference, run_program

BOUND = 1e-5

CASES = {
    "two_heads": dict(size=(3, 4, 5)),
    "one_token": dict(size=(1, 1, 1), text_len=1),
    "four_heads_of_48": dict(model=dict(num_attention_heads=4, attention_head_dim=48), size=(2, 5, 3)),
    "three_heads_of_128": dict(model=dict(num_attention_heads=3, attention_head_dim=128, num_layers=3), size=(3, 3, 7)),
    "patch_1_4_4": dict(model=dict(patch_size=(1, 4, 4), in_channels=3, out_channels=3), size=(5, 3, 3)),
    "patch_2_2_1": dict(model=dict(patch_size=(2, 2, 1), in_channels=5, out_channels=3), size=(2, 3, 5)),
    "no_cross_attn_norm": dict(model=dict(cross_attn_norm=False), size=(2, 4, 4)),
    "qk_norm_none": dict(model=dict(qk_norm=None), size=(2, 4, 4)),
    "coarse_eps": dict(model=dict(eps=0.05), size=(2, 4, 4)),
    "odd_freq_dim": dict(model=dict(freq_dim=33), size=(2, 4, 4)),
    "batch": dict(size=(2, 3, 4), batch=2),
    "batch_of_three_long_text": dict(size=(2, 2, 3), batch=3, text_len=40),
    "no_text": dict(size=(2, 3, 4), text_len=0),
    "per_token_timesteps": dict(size=(3, 4, 3), per_token=True, batch=2),
    "image": dict(model=dict(image_dim=40, added_kv_proj_dim=64), size=(2, 3, 4), text_len=512, image_len=257),
    "image_batch": dict(model=dict(image_dim=40, added_kv_proj_dim=64), size=(2, 3, 4), text_len=515, image_len=5,
                        batch=2),
    "image_pairs": dict(model=dict(image_dim=40, added_kv_proj_dim=64, pos_embed_seq_len=514), size=(2, 3, 4),
                        text_len=512, image_len=257, batch=2),
    "image_as_text": dict(model=dict(image_dim=40), size=(2, 3, 4), image_len=7, batch=2),
}


def check(model, folder, inputs, work, **environment):
    ours = forward(folder, inputs, work, **environment)
    single, double = reference(model, inputs, torch.float32), reference(model, inputs, torch.float64)
    assert set(ours) == set(double)
    for name, exact in double.items():
        assert ours[name].shape == exact.shape
        errors = error(ours[name], exact), error(single[name], exact)
        print(f"{name}: ours {errors[0]:.1e}, torch float32 {errors[1]:.1e}")
        assert errors[0] <= BOUND, (name, errors)


@pytest.mark.parametrize("name", CASES)
def test_every_block_matches_diffusers(name, tmp_path):
    case = dict(CASES[name])
    model = random_model(**case.pop("model", {}))
    model.save_pretrained(tmp_path / "model")
    check(model, tmp_path / "model", random_inputs(model, **case), tmp_path)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avxvnni", "avx512"])
def test_cpu_levels(level, tmp_path):
    told = run_program("environment_report", AEROGEL_CPU=level)
    if "asks for more than this CPU has" in told.stderr:
        pytest.skip(told.stderr.strip())
    assert told.returncode == 0, told.stderr
    model = random_model(num_attention_heads=4, attention_head_dim=48)
    model.save_pretrained(tmp_path / "model")
    check(model, tmp_path / "model", random_inputs(model, (3, 7, 5), batch=2), tmp_path, AEROGEL_CPU=level)


def test_latents_joined_to_the_noise(tmp_path):
    """Image-to-video: mask and condition are channels behind those of the noise, which alone come out."""
    model = random_model(in_channels=9, out_channels=4)
    model.save_pretrained(tmp_path / "model")
    inputs = random_inputs(model, (3, 4, 3), batch=2)
    exact = reference(model, inputs, torch.float64)
    whole = inputs["hidden_states"]
    apart = {**inputs, "hidden_states": whole[:, :4], "condition": whole[:, 4:]}
    ours = forward(tmp_path / "model", apart, tmp_path)
    assert {k: error(ours[k], v) <= BOUND for k, v in exact.items()} == dict.fromkeys(exact, True)


def test_wan22_image_tokens_at_time_zero(tmp_path):
    """Few distinct timesteps: the first frame clean, the rest noisy, runs of unequal length in one video."""
    model = random_model()
    model.save_pretrained(tmp_path / "model")
    inputs = random_inputs(model, (3, 4, 3), per_token=True, batch=2)
    inputs["timestep"][:] = 750.0
    inputs["timestep"][:, :12] = 0.0
    inputs["timestep"][1, 20:23] = 31.5
    check(model, tmp_path / "model", inputs, tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_checkpoints_compute_in_float32(dtype, tmp_path):
    model, half = random_model(), random_model().to(dtype)
    half.save_pretrained(tmp_path / "model")
    # A fresh model for the values alone: .to(dtype) rounds the rotary tables too, which no file holds.
    model.load_state_dict(half.float().state_dict())
    check(model, tmp_path / "model", random_inputs(model, (2, 4, 3)), tmp_path)


def test_shards_and_pipeline_folder(tmp_path):
    model = random_model()
    model.save_pretrained(tmp_path / "pipeline/transformer", max_shard_size="60KB")
    assert len(list((tmp_path / "pipeline/transformer").glob("*.safetensors"))) > 2
    check(model, tmp_path / "pipeline", random_inputs(model, (2, 4, 3)), tmp_path)


def test_linear_names_are_those_of_diffusers(tmp_path):
    model = random_model(image_dim=40, added_kv_proj_dim=64, pos_embed_seq_len=6)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    done = run_program("transformer_forward", tmp_path)
    stored, *names = done.stdout.split()
    assert names == [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert int(stored) == sum(v.numel() * v.element_size() for v in model.state_dict().values())


@pytest.mark.parametrize("broken", ["rope", "modulation", "gate", "text", "norm_q", "ffn", "bias", "time", "table"])
def test_the_bound_notices(broken, tmp_path):
    """Each part, left out of the reference, moves the output far beyond the bound."""
    model = random_model()
    inputs = random_inputs(model, (3, 4, 5))
    exact = reference(model, inputs, torch.float64)["output"]
    block = model.blocks[1]
    with torch.no_grad():
        if broken == "rope":
            model.rope.freqs_sin.neg_()
        elif broken == "modulation":
            block.scale_shift_table[:, 1] += 1e-3
        elif broken == "gate":
            block.scale_shift_table[:, 5] += 1e-3
        elif broken == "text":
            inputs["encoder_hidden_states"][:, 0] += 1e-2
        elif broken == "norm_q":
            block.attn1.norm_q.weight += 1e-2
        elif broken == "ffn":
            block.ffn.net[0].approximate = "none"
        elif broken == "bias":
            block.attn2.to_v.bias += 1e-3
        elif broken == "time":
            inputs["timestep"] += 0.01
        elif broken == "table":
            model.scale_shift_table[:, 0] += 1e-3
    assert error(reference(model, inputs, torch.float64)["output"], exact) > 2 * BOUND
