"""LoRA adapters on quantized layers: the same as on the float layers that hold the quantized values."""
import aerogel
import pytest
import torch
from diffusers import FluxPipeline, WanPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from tiny_pipelines import build, latents, relative

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS = ["to_q", "to_v", "ffn.net.2", "proj_out"]  # proj_out stays float


@pytest.fixture
def lora(tmp_path):
    """A folder with adapters for the Wan transformer."""
    model = build("wan")[0].transformer
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=TARGETS, init_lora_weights=False))
    WanPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(model))
    return tmp_path


def quantized(scheme="W8A16"):
    """(pipeline, its arguments) with quantized layers. W8A16 does not round activations, so float layers can do the same."""
    pipe, arguments = build("wan")
    aerogel.quantize(pipe.transformer, scheme=scheme)
    return pipe, arguments


def rounded():
    """The same with float layers of the quantized values."""
    pipe, arguments = quantized()
    pipe.transformer.dequantize()
    return pipe, arguments


def test_loaded_weights_compute_what_they_do_on_float_layers(lora):
    exact, arguments = rounded()
    exact.load_lora_weights(lora, adapter_name="a")
    pipe, _ = quantized()
    before = latents(pipe, arguments)
    pipe.load_lora_weights(lora, adapter_name="a")
    layer = pipe.transformer.blocks[0].attn1.to_q
    assert type(layer).__name__ == "LoraQuantizedLinear" and isinstance(layer.base_layer, aerogel.QuantizedLinear)
    y = latents(pipe, arguments)
    assert relative(y, latents(exact, arguments)) < 1e-5 < 0.01 < relative(y, before)
    for p in (pipe, exact):
        p.set_adapters(["a"], [0.5])
    half = latents(pipe, arguments)
    assert relative(half, latents(exact, arguments)) < 1e-5 < 0.01 < relative(half, y)
    pipe.disable_lora()
    assert torch.equal(latents(pipe, arguments), before)
    pipe.unload_lora_weights()
    assert torch.equal(latents(pipe, arguments), before) and isinstance(pipe.transformer.blocks[0].attn1.to_q, aerogel.QuantizedLinear)


def test_gradients_reach_the_adapters():
    models = [rounded()[0].transformer, quantized()[0].transformer]
    video, text = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 5, 24)
    grads = []
    for model in models:
        torch.manual_seed(5)
        model.add_adapter(LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=False))
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert len(trained) == 22 and all("lora_" in n for n in trained)
        model(video, torch.tensor([500.0]), text, return_dict=False)[0].square().mean().backward()
        grads.append([p.grad for p in trained.values()])
    for a, b in zip(*grads, strict=True):
        assert a.abs().sum() > 0
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-6)


def test_two_adapters_and_merging(lora):
    pipe, arguments = quantized()
    for name in ("style", "motion"):
        pipe.load_lora_weights(lora, adapter_name=name)
    pipe.set_adapters(["style", "motion"], [1.0, -0.5])
    apart, layer = latents(pipe, arguments), pipe.transformer.blocks[0].attn1.to_q
    before = layer.base_layer
    pipe.fuse_lora(adapter_names=["style"])
    pipe.fuse_lora(adapter_names=["motion"])
    wanted = before.dequantized() + layer.get_delta_weight("style") + layer.get_delta_weight("motion")
    step = wanted.abs().amax(1, keepdim=True) / 127
    assert ((layer.base_layer.dequantized() - wanted).abs() <= 0.51 * step).all() and layer.base_layer is not before
    assert 0 < relative(latents(pipe, arguments), apart) < 0.02
    pipe.unfuse_lora()
    assert layer.base_layer is before and relative(latents(pipe, arguments), apart) < 1e-5  # float layers round


def test_adapters_before_quantization(lora):
    pipe, arguments = build("wan")
    pipe.load_lora_weights(lora, adapter_name="a")
    report = aerogel.quantize(pipe.transformer, scheme="W8A16")
    assert len(report.quantized) == 20 and "blocks.0.attn1.to_q.base_layer" in report.quantized
    after, _ = quantized()
    after.load_lora_weights(lora, adapter_name="a")
    assert torch.equal(latents(pipe, arguments), latents(after, arguments))


def test_biases_of_adapters_merge():
    model = quantized()[0].transformer
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False, lora_bias=True))
    layer, x = model.blocks[0].attn1.to_q, torch.randn(7, 64)
    torch.nn.init.normal_(layer.lora_B["default"].bias)
    with torch.no_grad():
        apart = layer(x)
        layer.merge()
        assert relative(layer(x), apart) < 0.01
        layer.unmerge()
        assert torch.equal(layer(x), apart)


def test_what_needs_the_float_weight_is_refused():
    model = quantized()[0].transformer
    with pytest.raises(ValueError, match=r"\[lora\] DoRA needs the float weight"):
        model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], use_dora=True))


def test_flux(tmp_path):
    """Another pipeline's loader, and a model that from_pretrained quantized."""
    pipe, arguments = build("flux")
    pipe.transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    exact = latents(pipe, arguments)
    FluxPipeline.save_lora_weights(tmp_path / "lora", transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    plain, _ = build("flux")
    plain.transformer.save_pretrained(tmp_path / "model")
    plain.transformer = type(plain.transformer).from_pretrained(tmp_path / "model", quantization_config=aerogel.AerogelConfig("W8A8_DYNAMIC"))
    without = latents(plain, arguments)
    plain.load_lora_weights(tmp_path / "lora")
    assert 1e-4 < relative(latents(plain, arguments), exact) < 0.02 < relative(without, exact)
