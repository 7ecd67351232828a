"""The native image transformers against diffusers, block by block, over the shapes the architectures can take; bad
folders; and what the command does with them."""
import inspect
import json
import subprocess

import aerogel as package
import pytest
import torch
from image_models import QwenImage, ZImage
from safetensors.torch import load_file, save_file
from wan_models import PROGRAMS, edit_json, error, forward, run_program

BOUND = 1e-5
WEIGHTS = "diffusion_pytorch_model.safetensors"
FAMILIES = [ZImage, QwenImage]

CASES = {
    "odd_size": (ZImage, dict(size=(3, 5))),
    "one_token": (ZImage, dict(size=(1, 1), text_len=1)),
    "image_of_32_tokens": (ZImage, dict(size=(4, 8))),
    "text_of_32_tokens": (ZImage, dict(size=(3, 5), text_len=32)),
    "both_without_padding": (ZImage, dict(size=(8, 8), text_len=64)),
    "long_text": (ZImage, dict(size=(7, 9), text_len=77)),
    "batch": (ZImage, dict(size=(5, 3), batch=2)),
    "batch_of_three_long_text": (ZImage, dict(size=(6, 6), batch=3, text_len=40)),
    "wide": (ZImage, dict(model=dict(dim=384, n_heads=3, axes_dims=[32, 48, 48]), size=(5, 7))),
    "deep": (ZImage, dict(model=dict(n_layers=3, n_refiner_layers=2), size=(5, 7))),
    "qk_norm_false": (ZImage, dict(model=dict(qk_norm=False), size=(5, 7))),
    "patch_4": (ZImage, dict(model=dict(all_patch_size=(4,), in_channels=3), size=(3, 5))),
    "patch_1": (ZImage, dict(model=dict(all_patch_size=(1,)), size=(3, 5))),
    "coarse_eps": (ZImage, dict(model=dict(norm_eps=0.05), size=(3, 5))),
    "other_constants": (ZImage, dict(model=dict(rope_theta=100.0, t_scale=10.0, axes_dims=[4, 20, 8]), size=(3, 5))),
    "qwen_odd_size": (QwenImage, dict(size=(3, 5))),
    "qwen_even_size": (QwenImage, dict(size=(4, 6), text_len=32)),
    "qwen_one_token": (QwenImage, dict(size=(1, 1), text_len=1)),
    "qwen_long_text": (QwenImage, dict(size=(7, 9), text_len=77)),
    "qwen_batch": (QwenImage, dict(size=(5, 3), batch=2)),
    "qwen_batch_of_three_long_text": (QwenImage, dict(size=(6, 6), batch=3, text_len=40)),
    "qwen_heads_of_128": (QwenImage, dict(model=dict(attention_head_dim=128, num_attention_heads=3, num_layers=3,
                                                     axes_dims_rope=(16, 56, 56)), size=(9, 7))),
    "qwen_patch_4": (QwenImage, dict(model=dict(patch_size=4, in_channels=48, out_channels=3), size=(3, 5))),
    "qwen_patch_1": (QwenImage, dict(model=dict(patch_size=1, in_channels=5, out_channels=None), size=(3, 5))),
    "qwen_other_axes": (QwenImage, dict(model=dict(axes_dims_rope=(4, 20, 8)), size=(3, 5))),
}


def check(family, model, folder, inputs, work, **environment):
    ours = forward(folder, inputs, work, **environment)
    single, double = (family.reference(model, inputs, dtype) for dtype in (torch.float32, torch.float64))
    assert set(ours) == set(double)
    for name, exact in double.items():
        assert ours[name].shape == exact.shape
        errors = error(ours[name], exact), error(single[name], exact)
        print(f"{name}: ours {errors[0]:.1e}, torch float32 {errors[1]:.1e}")
        assert errors[0] <= BOUND, (name, errors)


@pytest.mark.parametrize("name", CASES)
def test_every_block_matches_diffusers(name, tmp_path):
    family, case = CASES[name]
    case = dict(case)
    model = family.model(**case.pop("model", {}))
    model.save_pretrained(tmp_path / "model")
    check(family, model, tmp_path / "model", family.inputs(model, **case), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_names_are_those_of_diffusers(family, tmp_path):
    model = family.model()
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    done = run_program("transformer_forward", tmp_path)
    assert done.returncode == 0, done.stderr
    stored, *names = done.stdout.split()
    assert names == [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert int(stored) == sum(v.numel() * v.element_size() for v in model.state_dict().values())


BREAK = {
    ZImage: {
        "rope": lambda m: setattr(m.rope_embedder, "freqs_cis", [f.conj() for f in m.rope_embedder.precompute_freqs_cis(
            m.axes_dims, m.axes_lens, m.rope_theta)]),
        "scale": lambda m: m.layers[1].adaLN_modulation[0].bias[0:8].add_(1e-2),
        "gate": lambda m: m.layers[1].adaLN_modulation[0].bias[3 * m.dim:3 * m.dim + 8].add_(1e-2),
        "norm_q": lambda m: m.layers[1].attention.norm_q.weight.add_(1e-2),
        "w3": lambda m: m.layers[0].feed_forward.w3.weight[0].add_(1e-2),
        "refiner": lambda m: m.noise_refiner[0].ffn_norm2.weight.add_(1e-2),
        "context": lambda m: m.context_refiner[0].ffn_norm2.weight.add_(1e-2),
        "image_padding": lambda m: m.x_pad_token.add_(1e-2),
        "text_padding": lambda m: m.cap_pad_token.add_(1e-2),
        "text": lambda m: m.cap_embedder[0].weight[0].add_(1e-1),
        "time": lambda m: setattr(m, "t_scale", 999.9),
        "final": lambda m: m.all_final_layer["2-1"].adaLN_modulation[1].bias[0:8].add_(1e-2),
    },
    QwenImage: {
        "rope": lambda m: setattr(m.pos_embed, "_compute_video_freqs", lambda f, h, w, i, d, c=m.pos_embed.
                                  _compute_video_freqs: c(f, h, w, i, d).conj()),
        "centre": lambda m: setattr(m.pos_embed, "scale_rope", False),
        "modulation": lambda m: m.transformer_blocks[1].img_mod[1].bias[0:8].add_(1e-2),
        "text_modulation": lambda m: m.transformer_blocks[0].txt_mod[1].bias[0:8].add_(1e-2),
        "gate": lambda m: m.transformer_blocks[1].img_mod[1].bias[-8:].add_(1e-2),
        "norm_q": lambda m: m.transformer_blocks[1].attn.norm_q.weight.add_(1e-2),
        "norm_added_k": lambda m: m.transformer_blocks[1].attn.norm_added_k.weight.add_(1e-2),
        "add_v": lambda m: m.transformer_blocks[1].attn.add_v_proj.bias.add_(1e-2),
        "to_add_out": lambda m: m.transformer_blocks[0].attn.to_add_out.bias.add_(1e-2),
        "mlp": lambda m: setattr(m.transformer_blocks[0].img_mlp.net[0], "approximate", "none"),
        "text": lambda m: m.txt_norm.weight[0].add_(1e-1),
        "time": lambda m: setattr(m.time_text_embed.time_proj, "scale", 999.9),
        "final": lambda m: m.norm_out.linear.bias[0:8].add_(1e-2),
    },
}


@pytest.mark.parametrize("family, broken", [(family, name) for family, parts in BREAK.items() for name in parts])
def test_the_bound_notices(family, broken):
    """Each part, changed in the reference, moves the output far beyond the bound."""
    model = family.model()
    inputs = family.inputs(model, (3, 5))
    exact = family.reference(model, inputs, torch.float64)["output"]
    with torch.no_grad():
        BREAK[family][broken](model)
    assert error(family.reference(model, inputs, torch.float64)["output"], exact) > 2 * BOUND


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_cpu_levels(level, tmp_path):
    told = run_program("environment_report", AEROGEL_CPU=level)
    if "asks for more than this CPU has" in told.stderr:
        pytest.skip(told.stderr.strip())
    for family in FAMILIES:
        model = family.model()
        model.save_pretrained(tmp_path / family.__name__)
        check(family, model, tmp_path / family.__name__, family.inputs(model, (5, 7), batch=2), tmp_path, AEROGEL_CPU=level)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_shards_in_a_pipeline_folder(family, tmp_path):
    half = family.model().to(torch.bfloat16)
    half.save_pretrained(tmp_path / "pipeline/transformer", max_shard_size="60KB")
    assert len(list((tmp_path / "pipeline/transformer").glob("*.safetensors"))) > 2
    model = family.model()
    model.load_state_dict(half.float().state_dict())
    check(family, model, tmp_path / "pipeline", family.inputs(model, (4, 3)), tmp_path)


# --- bad folders and inputs

@pytest.fixture
def folder(family, tmp_path):
    family.model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def message(*arguments):
    done = run_program("transformer_forward", *arguments)
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def message_of_inputs(folder, inputs):
    save_file(inputs, folder.parent / "inputs.safetensors")
    return message(folder, folder.parent / "inputs.safetensors", folder.parent / "out.safetensors")


@pytest.mark.parametrize("family, change, expected", [
    (ZImage, {"siglip_feat_dim": 1152}, "siglip_feat_dim must be null (the omni model with SigLIP features is not "
                                        "supported), got 1152"),
    (ZImage, {"all_patch_size": [2, 4]}, "all_patch_size must be a list of one size, got [2,4]"),
    (ZImage, {"all_f_patch_size": [2]}, "all_f_patch_size must be [1] (patches of one frame), got [2]"),
    (ZImage, {"dim": 97}, "dim must be a multiple of n_heads = 3, got 97"),
    (ZImage, {"dim": 960}, "dim must be at most 256 * n_heads = 768, got 960"),
    (ZImage, {"axes_dims": [8, 12]}, "axes_dims must be a list of three sizes"),
    (ZImage, {"axes_dims": [8, 12, 14]}, "axes_dims must be sizes whose sum is dim / n_heads = 32, got [8,12,14]"),
    (ZImage, {"axes_dims": [9, 11, 12]}, "axes_dims must be a list of three even sizes"),
    (ZImage, {"n_layers": 10**6}, "hold only"), (ZImage, {"n_layers": "2"}, "n_layers must be a whole number"),
    (ZImage, {"n_layers": 1}, "unexpected tensors: layers.1."), (ZImage, {"n_layers": 3}, "missing tensors: layers.2."),
    (ZImage, {"n_refiner_layers": 2}, "missing tensors: noise_refiner.1."), (ZImage, {"qk_norm": 1}, "qk_norm must be true"),
    (ZImage, {"qk_norm": False}, "unexpected tensors: context_refiner.0.attention.norm_k.weight"),
    (ZImage, {"norm_eps": 0}, "norm_eps must be"), (ZImage, {"t_scale": 0}, "t_scale must be"),
    (ZImage, {"rope_theta": "256"}, "rope_theta must be"), (ZImage, {"axes_lens": [64, 0, 64]}, "axes_lens[1] must be"),
    (ZImage, {"cap_feat_dim": 25}, "cap_embedder.1.weight must be a float[96,25], got f32[96,24]"),
    (QwenImage, {"zero_cond_t": True}, "zero_cond_t must be false (this variant of Qwen-Image is not supported), got true"),
    (QwenImage, {"use_additional_t_cond": True}, "use_additional_t_cond must be false"),
    (QwenImage, {"use_layer3d_rope": True}, "use_layer3d_rope must be false"),
    (QwenImage, {"guidance_embeds": True}, "guidance_embeds must be false"),
    (QwenImage, {"in_channels": 18}, "in_channels must be a multiple of patch_size squared = 4, got 18"),
    (QwenImage, {"attention_head_dim": 33}, "attention_head_dim must be even and at most 256, got 33"),
    (QwenImage, {"num_attention_heads": 10**6}, "num_attention_heads must be at most 32768 for heads of 32"),
    (QwenImage, {"axes_dims_rope": [8, 12, 14]}, "axes_dims_rope must be sizes whose sum is attention_head_dim = 32"),
    (QwenImage, {"axes_dims_rope": [9, 11, 12]}, "axes_dims_rope must be a list of three even sizes"),
    (QwenImage, {"num_layers": 0}, "num_layers must be"), (QwenImage, {"num_layers": 10**6}, "hold only"),
    (QwenImage, {"num_layers": 1}, "unexpected tensors: transformer_blocks.1."),
    (QwenImage, {"joint_attention_dim": 25}, "txt_in.weight must be a float[64,25], got f32[64,24]")])
def test_config_values(family, folder, change, expected):
    edit_json(folder / "config.json", **change)
    assert expected in message(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_defaults_are_those_of_diffusers(family, folder):
    """A key that is absent means what the class's own default means, whether the weights then fit or not."""
    config = json.loads((folder / "config.json").read_text())
    parameters = inspect.signature(type(family.model()).__init__).parameters
    defaults = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert len(defaults) > 10
    for key, default in defaults.items():
        said = []
        for changed in ({**config, key: default}, {k: v for k, v in config.items() if k != key}):
            (folder / "config.json").write_text(json.dumps(changed))
            said.append(run_program("transformer_forward", folder).stderr.split(", got")[0])
        assert said[0] == said[1], key


@pytest.mark.parametrize("name, value, expected", [
    ("hidden_states", torch.zeros(1, 4, 2, 6, 4), "hidden_states must be f32[*,4,1,*,*], got f32[1,4,2,6,4]"),
    ("hidden_states", torch.zeros(1, 5, 1, 6, 4), "hidden_states must be f32[*,4,*,*,*], got f32[1,5,1,6,4]"),
    ("hidden_states", torch.zeros(1, 4, 1, 5, 4), "hidden_states must be multiples of patch_size [1,2,2]"),
    ("hidden_states", torch.zeros(1, 4, 1, 0, 4), "multiples of patch_size"),
    ("hidden_states", torch.zeros(0, 4, 1, 6, 4), "the batch is empty"),
    ("timestep", torch.zeros(2), "timestep must be f32[1], got f32[2]"),
    ("timestep", torch.zeros(1, 6), "timestep must be f32[1], got f32[1,6]"),
    ("encoder_hidden_states", torch.zeros(1, 9, 23), "encoder_hidden_states must be f32[1,*,24]"),
    ("encoder_hidden_states", torch.zeros(1, 0, 24), "encoder_hidden_states must hold tokens, got f32[1,0,24]"),
    ("encoder_hidden_states", torch.full((1, 9, 24), torch.nan), "the input 'encoder_hidden_states' f32[1,9,24] is not")])
@pytest.mark.parametrize("family", FAMILIES)
def test_inputs(family, folder, name, value, expected):
    assert expected in message_of_inputs(folder, {**family.inputs(family.model(), (3, 2)), name: value})


@pytest.mark.parametrize("family, size, text_len, expected", [
    (ZImage, (1, 33), 1, "at most axes_lens = 32 x 32 patches, got 1 x 33 for f32[1,4,1,2,66]"),
    (ZImage, (1, 1), 97, "axes_lens[0] = 128 allows 96 text tokens, got f32[1,97,24]"),
    (QwenImage, (1, 3), 4096, "there are 4096 positions for half of the image's longer side and the text, got 3 patches")])
def test_positions_end(family, size, text_len, expected, folder):
    assert expected in message_of_inputs(folder, family.inputs(family.model(), size, text_len=text_len))


@pytest.mark.parametrize("family, layer, expected", [
    (ZImage, "layers.1.feed_forward.w3", "the output of layers.1 is not finite"),
    (ZImage, "noise_refiner.0.adaLN_modulation.0", "the output of noise_refiner.0 is not finite"),
    (ZImage, "context_refiner.0.attention.to_out.0", "the output of context_refiner.0 is not finite"),
    (ZImage, "t_embedder.mlp.2", "the timestep embedding is not finite"),
    (ZImage, "cap_embedder.1", "the embedding of image and text is not finite"),
    (ZImage, "all_final_layer.2-1.linear", "the output of the model is not finite"),
    (QwenImage, "transformer_blocks.1.attn.to_v", "the output of block 1 is not finite"),
    (QwenImage, "transformer_blocks.0.txt_mod.1", "the output of block 0 is not finite"),
    (QwenImage, "time_text_embed.timestep_embedder.linear_1", "the timestep embedding is not finite"),
    (QwenImage, "img_in", "the embedding of image and text is not finite"),
    (QwenImage, "norm_out.linear", "the output of the model is not finite")])
def test_weights_that_are_not_finite_are_named(family, folder, layer, expected):
    tensors = load_file(folder / WEIGHTS)
    tensors[layer + ".weight"][0, 0] = torch.nan
    save_file(tensors, folder / WEIGHTS)
    text = message_of_inputs(folder, family.inputs(family.model(), (3, 2)))
    assert expected in text and f"'{layer}.weight'" in text


# --- what the command does with them

LINEARS = {
    ZImage: [f"{block}.{layer}" for block in ("noise_refiner.0", "context_refiner.0", "layers.0", "layers.1")
             for layer in ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0", "feed_forward.w1",
                           "feed_forward.w2", "feed_forward.w3")],
    QwenImage: [f"transformer_blocks.{i}.{layer}" for i in range(2) for layer in (
        *(f"attn.{n}" for n in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
        *(f"{s}_mlp.net.{n}" for s in ("img", "txt") for n in ("0.proj", "2")))],
}


@pytest.fixture(scope="module", params=FAMILIES)
def recorded(request, tmp_path_factory):
    """(family, model, folder, file of three recorded inputs, their exact velocities)."""
    family, folder = request.param, tmp_path_factory.mktemp("recorded")
    model = family.model()
    model.save_pretrained(folder / "transformer")
    inputs = family.inputs(model, (6, 5), batch=3)
    save_file(inputs, folder / "records.safetensors")
    return family, model, folder, family.reference(model, inputs, torch.float64)["output"]


def aerogel(*arguments):
    done = subprocess.run([str(PROGRAMS.parent / "aerogel"), *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def velocity(folder, work, *flags):
    out = work / "velocity.safetensors"
    report = json.loads(aerogel("forward", folder, "--inputs", folder / "records.safetensors", "-o", out, "--json", *flags))
    return load_file(out)["velocity"], report


def exported(folder, work, scheme, *flags):
    aerogel("quantize", folder, "-o", work / scheme, "--scheme", scheme, *flags)
    return work / scheme / f"quant_model_description_{scheme.lower()}.json"


def quantized_layers(description):
    told = json.loads(description.read_text())
    return {name.removesuffix(".weight") for name, type in told.items() if name.endswith(".weight") and type != "FLOAT"}


def test_schemes(recorded, tmp_path):
    _, _, folder, exact = recorded
    plain, big = velocity(folder, tmp_path)
    assert error(plain, exact) < 1e-5
    for scheme, most in {"W8A8_DYNAMIC": 0.05, "W8A16": 0.02, "W4A16": 0.3, "W4A8": 0.3, "WFP8AFP8_DYNAMIC": 0.15}.items():
        online, small = velocity(folder, tmp_path, "--online", scheme)
        assert 1e-4 < error(online, exact) < most, scheme
        assert small["weight_bytes"] < big["weight_bytes"]


def test_files_memory_and_python_give_the_same(recorded, tmp_path):
    family, model, folder, exact = recorded
    description = exported(folder, tmp_path, "W8A8_DYNAMIC")
    assert quantized_layers(description) == set(LINEARS[family])
    ours = velocity(folder, tmp_path, "--quantized", description)[0]
    assert torch.equal(ours, velocity(folder, tmp_path, "--online", "W8A8_DYNAMIC")[0])
    inputs = load_file(folder / "records.safetensors")
    for given in (dict(quant_des_path=description), dict(scheme="W8A8_DYNAMIC")):
        told = family.model()
        report = package.quantize(told, **given)
        assert set(report.quantized) == set(LINEARS[family])
        theirs = family.reference(told, inputs, torch.float32)["output"]
        # A last bit in a float layer turns over codes of 8 bits.
        assert error(ours, theirs) < 5e-3 < error(ours, exact)


def test_attention_is_quantized(recorded, tmp_path):
    family, _, folder, _ = recorded
    plain = velocity(folder, tmp_path, "--online", "W8A16")[0]
    for kind in ("INT8_DYNAMIC", "FP8_DYNAMIC"):
        both = velocity(folder, tmp_path, "--online", "W8A16", "--fa", kind)[0]
        assert 1e-5 < error(both, plain.double()) < 0.1, kind
    text = exported(folder, tmp_path, "W8A16", "--fa", "INT8_DYNAMIC").read_text()
    names = {ZImage: ["layers.1.attention", "noise_refiner.0.attention", "context_refiner.0.attention"],
             QwenImage: ["transformer_blocks.0.attn", "transformer_blocks.1.attn"]}[family]
    assert all(name in text for name in names)


def test_calibrated_with_recorded_inputs(recorded, tmp_path):
    family, _, folder, exact = recorded
    description = exported(folder, tmp_path, "W8A8", "--recorded-inputs", folder / "records.safetensors")
    assert quantized_layers(description) == set(LINEARS[family])
    assert 1e-4 < error(velocity(folder, tmp_path, "--quantized", description)[0], exact) < 0.15


def test_sparse_attention_knows_where_the_text_is(recorded, tmp_path):
    _, _, folder, exact = recorded
    everything, _ = velocity(folder, tmp_path, "--sparse", "rf_v2", "--sparsity", "0.0", "--block-size", "16")
    assert error(everything, exact) < 0.02
    chosen, report = velocity(folder, tmp_path, "--sparse", "ada_bsa", "--block-size", "16")
    assert report["density"] <= 1 and error(chosen, exact) < 0.5


def test_inspect(recorded):
    family, _, folder, _ = recorded
    text = aerogel("inspect", folder)
    assert f"{type(family.model()).__name__} with n" in text  # num_layers, n_layers
    assert f"{len(LINEARS[family])} of them quantized by default" in text
