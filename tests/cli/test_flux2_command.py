"""A FLUX.2 transformer through the command: inspected, calibrated, quantized, run on recorded inputs."""
import json

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline
from safetensors.torch import load_file, save_file

DOUBLE = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
QUANTIZED = ([f"transformer_blocks.{i}.attn.{n}" for i in range(2) for n in DOUBLE]
             + [f"transformer_blocks.{i}.{f}.{n}" for i in range(2) for f in ("ff", "ff_context")
                for n in ("linear_in", "linear_out")]
             + [f"single_transformer_blocks.{i}.attn.{n}" for i in range(2) for n in ("to_qkv_mlp_proj", "to_out")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux2")
    torch.manual_seed(0)
    Flux2Transformer2DModel(in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
                            joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(8, 8, 8, 8),
                            guidance_embeds=False).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def recorded(folder):
    generator = torch.Generator().manual_seed(5)
    tensors = {"hidden_states": torch.randn(3, 8, 1, 6, 5, generator=generator),
               "timestep": torch.tensor([900.0, 500.0, 100.0]),
               "encoder_hidden_states": torch.randn(3, 7, 48, generator=generator)}
    save_file(tensors, folder / "records.safetensors")
    return folder / "records.safetensors", tensors


@pytest.fixture(scope="module")
def exact(folder, recorded):
    _, tensors = recorded
    model = Flux2Transformer2DModel.from_pretrained(folder / "transformer")
    latents = tensors["hidden_states"][:, :, 0]
    with torch.no_grad():
        out = model(hidden_states=Flux2KleinPipeline._pack_latents(latents), timestep=tensors["timestep"] / 1000,
                    encoder_hidden_states=tensors["encoder_hidden_states"],
                    img_ids=Flux2KleinPipeline._prepare_latent_ids(latents),
                    txt_ids=Flux2KleinPipeline._prepare_text_ids(tensors["encoder_hidden_states"]), return_dict=False)[0]
    return out.permute(0, 2, 1).reshape(3, 8, 1, 6, 5)


@pytest.fixture
def velocity(aerogel, folder, recorded, tmp_path):
    """velocity(*flags) -> (tensor, report) of `forward` on the recorded inputs."""
    def run(*flags):
        out = tmp_path / "velocity.safetensors"
        done = aerogel("forward", folder, "--inputs", recorded[0], "-o", out, "--json", *flags)
        assert done.returncode == 0, done.stderr
        return load_file(out)["velocity"], json.loads(done.stdout)

    return run


@pytest.fixture
def quantized(aerogel, folder, tmp_path):
    """quantized(scheme, *flags) -> the description that `quantize` wrote."""
    def run(scheme, *flags):
        done = aerogel("quantize", folder, "-o", tmp_path / "q", "--scheme", scheme, *flags)
        assert done.returncode == 0, done.stderr
        return tmp_path / f"q/quant_model_description_{scheme.lower()}.json"

    return run


def distance(a, b):
    return float((a - b).norm() / b.norm())


def test_as_diffusers(velocity, exact):
    assert distance(velocity()[0], exact) < 1e-5


@pytest.mark.parametrize("scheme, most", [("W8A8_DYNAMIC", 0.05), ("W8A16", 0.02), ("W4A16", 0.3), ("WFP8AFP8_DYNAMIC", 0.15)])
def test_schemes(velocity, exact, scheme, most):
    online, small = velocity("--online", scheme)
    assert 1e-4 < distance(online, exact) < most
    assert small["weight_bytes"] < velocity()[1]["weight_bytes"]


def test_files_and_memory_give_the_same_bits(velocity, quantized):
    description = quantized("W8A8_DYNAMIC")
    told = json.loads(description.read_text())
    assert {n.removesuffix(".weight") for n, v in told.items() if v == "W8A8_DYNAMIC" and n.endswith(".weight")} == set(QUANTIZED)
    assert torch.equal(velocity("--quantized", description)[0], velocity("--online", "W8A8_DYNAMIC")[0])


@pytest.mark.parametrize("kind", ["INT8_DYNAMIC", "FP8_DYNAMIC"])
def test_attention_is_quantized(velocity, exact, kind):
    plain, both = velocity("--online", "W8A16")[0], velocity("--online", "W8A16", "--fa", kind)[0]
    assert 1e-5 < distance(both, plain) < 0.1


def test_sparse_attention_knows_where_the_text_is(velocity, exact):
    nothing_skipped, report = velocity("--sparse", "rf_v2", "--sparsity", "0.0", "--block-size", "16")
    assert distance(nothing_skipped, exact) < 0.02


def test_calibrated_with_recorded_inputs(velocity, exact, quantized, recorded):
    static, _ = velocity("--quantized", quantized("W8A8", "--recorded-inputs", recorded[0]))
    assert 1e-4 < distance(static, exact) < 0.1


def test_attentions_of_both_kinds_of_blocks_are_written(quantized):
    text = quantized("W8A16", "--fa", "INT8_DYNAMIC").read_text()
    for name in ("single_transformer_blocks.1.attn", "transformer_blocks.0.attn"):
        assert name in text


def test_inspect(aerogel, folder):
    done = aerogel("inspect", folder)
    assert done.returncode == 0, done.stderr
    assert "Flux2Transformer2DModel with num_layers=2" in done.stdout
    assert f"{len(QUANTIZED)}" in done.stdout
