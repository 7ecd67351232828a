"""--lora of the command: merged before quantization, several files, and what it does not go with."""
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_pipeline):
    """A LoRA, the same model with it merged, and recorded inputs."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(3)
    down, up = torch.randn(4, 64) / 8, torch.randn(64, 4) / 4
    save_file({"transformer.blocks.1.attn1.to_v.lora_A.weight": down, "transformer.blocks.1.attn1.to_v.lora_B.weight": up},
              folder / "style.safetensors")
    (folder / "merged/transformer").mkdir(parents=True)
    (folder / "merged/transformer/config.json").write_text((tiny_pipeline / "transformer/config.json").read_text())
    weights = load_file(tiny_pipeline / "transformer/diffusion_pytorch_model.safetensors")
    weights["blocks.1.attn1.to_v.weight"] += 0.5 * (up.double() @ down.double()).float()
    save_file(weights, folder / "merged/transformer/diffusion_pytorch_model.safetensors")
    save_file({"hidden_states": torch.randn(1, 3, 2, 16, 16), "timestep": torch.tensor([700.0]),
               "encoder_hidden_states": torch.randn(1, 8, 16)}, folder / "records.safetensors")
    return folder


@pytest.fixture
def velocity(aerogel, files, tmp_path):
    """velocity(model, *flags) -> tensor."""
    def run(model, *flags):
        done = aerogel("forward", model, "--inputs", files / "records.safetensors", "-o", tmp_path / "v.safetensors", *flags)
        assert done.returncode == 0, done.stderr
        return load_file(tmp_path / "v.safetensors")["velocity"]

    return run


@pytest.mark.parametrize("scheme", [[], ["--online", "W8A8_DYNAMIC"], ["--online", "W4A16"]])
def test_the_sum_is_what_runs_and_what_is_quantized(velocity, files, tiny_pipeline, scheme):
    plain = velocity(tiny_pipeline, *scheme)
    ours = velocity(tiny_pipeline, "--lora", f"{files}/style.safetensors=0.5", *scheme)
    twice = velocity(tiny_pipeline, "--lora", f"{files}/style.safetensors=0.2", "--lora", f"{files}/style.safetensors=0.3", *scheme)
    exact = velocity(files / "merged", *scheme)
    distance = lambda a: float((a - exact).norm() / exact.norm())
    # Rounded values on an edge may fall either way.
    assert distance(ours) < (1e-5 if not scheme else 5e-3) and distance(twice) < (1e-5 if not scheme else 5e-3)
    assert distance(plain) > 1e-2


@pytest.mark.parametrize("flags, expected", [
    (["--lora", "nowhere.safetensors"], "nowhere.safetensors"), (["--lora", "{f}=much"], "--lora must be FILE[=WEIGHT], got"),
    (["--lora", "=1"], "--lora must be FILE[=WEIGHT]"), (["--lora", "{f}=nan"], "its weight must be finite, got nan"),
    (["--lora", "{f}", "--quantized", "q"], "LoRA is merged into float weights, but the layers are read from quantized files (q)")])
def test_what_does_not_go(aerogel, files, tiny_pipeline, flags, expected):
    flags = [flag.format(f=files / "style.safetensors") for flag in flags]
    done = aerogel("forward", tiny_pipeline, "--inputs", files / "records.safetensors", "-o", files / "v.safetensors", *flags)
    assert done.returncode == 1 and expected in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_picture_tells_of_it(aerogel, files, tiny_pipeline, tmp_path):
    done = aerogel("generate", tiny_pipeline, "--prompt", "red", "--frames", 1, "--steps", 1, "--lora", f"{files}/style.safetensors=0.5",
                   "-o", tmp_path / "p.png")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "p.png").text["parameters"].endswith(", LoRA: style.safetensors 0.5")
