"""LoRA adapters on quantized layers: the same as on the float layers that hold the quantized values."""
import aerogel
import pytest
import torch
from diffusers import FluxPipeline, WanPipeline
from peft import HRAConfig, LoraConfig
from peft.utils import get_peft_model_state_dict
from tiny_pipelines import TEXT, build, latents, relative

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
    assert len(report.quantized) == 20 and "blocks.0.attn1.to_q" in report.quantized
    after, _ = quantized()
    after.load_lora_weights(lora, adapter_name="a")
    assert torch.equal(latents(pipe, arguments), latents(after, arguments))


def fusing(pipe, arguments):
    """The distance that fusing makes, and that of unfusing again."""
    apart = latents(pipe, arguments)
    pipe.fuse_lora()
    fused = latents(pipe, arguments)
    pipe.unfuse_lora()
    return relative(fused, apart), relative(latents(pipe, arguments), apart)


@pytest.mark.parametrize("scheme, bound", [("W8A16", 0.02), ("W4A16", 0.2), ("W4A16_MXFP4", 0.2)])
def test_adapters_from_before_merge(lora, scheme, bound):
    pipe, arguments = build("wan")
    pipe.load_lora_weights(lora, adapter_name="a")
    aerogel.quantize(pipe.transformer, scheme=scheme)
    fused, unfused = fusing(pipe, arguments)
    assert 1e-5 < fused < bound and unfused < 1e-5


def test_adapters_merged_before_quantization_come_out_of_the_sum(lora):
    pipe, arguments = build("wan")
    pipe.load_lora_weights(lora, adapter_name="a")
    apart = latents(pipe, arguments)
    pipe.fuse_lora()
    aerogel.quantize(pipe.transformer, scheme="W8A16")
    assert relative(latents(pipe, arguments), apart) < 0.02
    pipe.unfuse_lora()
    assert relative(latents(pipe, arguments), apart) < 0.02
    pipe.disable_lora()
    assert relative(latents(pipe, arguments), latents(*quantized())) < 0.02


def test_one_adapter_merged_before_quantization_and_one_after():
    model = build("wan")[0].transformer
    for name in ("a", "b"):
        model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False), adapter_name=name)
    layer, plain = model.blocks[0].attn1.to_q, model.blocks[0].attn1.to_q.base_layer.weight.clone()
    layer.merge(adapter_names=["a"])
    aerogel.quantize(model, scheme="W8A16")
    with torch.no_grad():
        a, b = (layer.get_delta_weight(name) for name in ("a", "b"))
        layer.merge(adapter_names=["b"])
        assert relative(layer.base_layer.dequantized(), plain + a + b) < 0.01
        layer.unmerge()
        assert relative(layer.base_layer.dequantized(), plain) < 0.01


def test_names_are_those_without_adapters(lora, tmp_path):
    """In files, reports, patterns, calibrations and recipes."""
    aerogel.export(build("wan")[0].transformer, tmp_path / "plain", "W8A16", progress=False)
    pipe, arguments = build("wan")
    pipe.load_lora_weights(lora, adapter_name="a")
    with pytest.warns(RuntimeWarning, match="adapters are left out unless they are merged"):
        aerogel.export(pipe.transformer, tmp_path / "adapted", "W8A16", progress=False)
    weights = [(tmp_path / name / "quant_model_weight_w8a16.safetensors").read_bytes() for name in ("plain", "adapted")]
    assert weights[0] == weights[1]
    inputs = {"hidden_states": torch.randn(1, 4, 3, 8, 8), "timestep": torch.tensor([500.0]), "encoder_hidden_states": torch.randn(1, 5, TEXT)}
    assert "blocks.0.attn1.to_q" in aerogel.calibrate(pipe.transformer, lambda model: model(**inputs)).layers
    found = aerogel.tune(pipe.transformer, [inputs], max_error=0.1, step_groups=1, schemes=["W8A8_DYNAMIC"], include="*.attn1.to_q")
    assert list(found.schemes) == ["blocks.0.attn1.to_q", "blocks.1.attn1.to_q"]
    report = aerogel.quantize(pipe.transformer, tmp_path / "plain")
    after, _ = quantized()
    after.load_lora_weights(lora, adapter_name="a")
    assert len(report.quantized) == 20 and torch.equal(latents(pipe, arguments), latents(after, arguments))


def test_recipes_reach_below_adapters(lora):
    pipe, arguments = build("wan")
    pipe.load_lora_weights(lora, adapter_name="a")
    inputs = {"hidden_states": torch.randn(1, 4, 3, 8, 8), "timestep": torch.tensor([500.0]), "encoder_hidden_states": torch.randn(1, 5, TEXT)}
    found = aerogel.tune(pipe.transformer, [inputs], max_error=0.1, step_groups=1, schemes=["W8A8_DYNAMIC"])
    assert found.schemes["blocks.0.attn1.to_q"] == "W8A8_DYNAMIC"
    found.quantize(pipe.transformer)
    assert isinstance(pipe.transformer.blocks[0].attn1.to_q.base_layer, aerogel.QuantizedLinear)
    assert fusing(pipe, arguments)[1] < 1e-3


def test_saving_leaves_adapters_out(lora, tmp_path):
    pipe, arguments = quantized()
    before = latents(pipe, arguments)
    pipe.load_lora_weights(lora, adapter_name="a")
    with pytest.warns(UserWarning, match="adapters are not saved with the model"):
        pipe.transformer.save_pretrained(tmp_path)
    pipe.transformer = type(pipe.transformer).from_pretrained(tmp_path)
    assert relative(latents(pipe, arguments), before) < 1e-6


@pytest.mark.parametrize("merged", [False, True])
def test_adapters_stay_when_the_model_is_dequantized(lora, merged):
    pipe, arguments = quantized()
    pipe.load_lora_weights(lora, adapter_name="a")
    if merged:
        pipe.fuse_lora()
    y = latents(pipe, arguments)
    pipe.transformer.dequantize()
    assert relative(latents(pipe, arguments), y) < 1e-5
    if merged:
        pipe.unfuse_lora()
    assert max(fusing(pipe, arguments)) < 1e-5


@pytest.mark.parametrize("adapter", [LoraConfig(r=4, target_modules=["to_q"], use_dora=True, init_lora_weights=False),
                                     HRAConfig(target_modules=["to_q"], init_weights=False)], ids=["DoRA", "HRA"])
def test_layers_whose_weight_an_adapter_reads_stay_float(adapter):
    pipe, arguments = build("wan")
    pipe.transformer.add_adapter(adapter)
    exact = latents(pipe, arguments)
    report = aerogel.quantize(pipe.transformer, scheme="W8A16")
    assert len(report.quantized) == 16 and relative(latents(pipe, arguments), exact) < 0.02
    assert {r.why for r in report.layers if r.name.endswith("to_q")} == {"an adapter of peft other than LoRA may read its weight: unload it first"}


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


@pytest.mark.parametrize("options, expected", [({"use_dora": True}, "DoRA needs the float weight"),
                                               ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' needs the float weight"),
                                               ({"init_lora_weights": "orthogonal"}, "init_lora_weights='orthogonal' needs the float weight")])
def test_what_needs_the_float_weight_is_refused(options, expected):
    """As the first and as the second adapter of a layer."""
    model = quantized()[0].transformer
    with pytest.raises(ValueError, match=r"\[lora\] " + expected):
        model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], **options))
    model = quantized()[0].transformer
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q"]), adapter_name="first")
    with pytest.raises(ValueError, match=r"\[lora\] " + expected):
        model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], **options), adapter_name="second")


def test_sums_that_are_not_finite():
    model = quantized()[0].transformer
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False), adapter_name="broken")
    layer = model.blocks[0].attn1.to_q
    before = layer.base_layer
    with torch.no_grad():
        layer.lora_B["broken"].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"\[lora\] the sum of a W8A16 layer and broken cannot be quantized: .* is not finite"):
        layer.merge()
    assert layer.base_layer is before and not layer.merged


@pytest.mark.parametrize("scheme", ["W4A16", "W4A16_MXFP4"])
def test_flux_compares_shapes(tmp_path, scheme):
    """Its loader asks each layer for the shape of its weight, of which two values share a byte here."""
    pipe, arguments = build("flux")
    pipe.transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    FluxPipeline.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    pair = [build("flux")[0] for _ in range(2)]
    for p in pair:
        aerogel.quantize(p.transformer, scheme=scheme)
    pair[0].transformer.dequantize()
    plain = latents(pair[0], arguments)
    for p in pair:
        p.load_lora_weights(tmp_path)
    exact, ours = (latents(p, arguments) for p in pair)
    assert relative(ours, exact) < 1e-5 < 0.01 < relative(plain, exact)


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
