"""AerogelConfig in diffusers' from_pretrained and save_pretrained, against aerogel.quantize of the same float model."""
import json

import aerogel
import pytest
import torch
from aerogel import AerogelConfig
from aerogel.diffusers import describe, loading
from diffusers import ConfigMixin, ModelMixin, PipelineQuantizationConfig, WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tiny_pipelines import build, latents, wan_transformer

pytestmark = pytest.mark.usefixtures("one_thread")

NO_PARTS = {"vae": None, "text_encoder": None, "tokenizer": None, "transformer_2": None}
SCHEMES = [name for name, _, calibrated in aerogel.schemes() if not calibrated]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A float Wan transformer, in one file ("float") and in one file per tensor or so ("shards")."""
    torch.manual_seed(3)
    model, path = wan_transformer().eval(), tmp_path_factory.mktemp("wan")
    model.save_pretrained(path / "float")
    model.save_pretrained(path / "shards", max_shard_size="4KB")
    return path


def load(path, config=None, **options):
    """The model, its float parameters in memory of their own: torch's products depend on alignment, which mapped files leave odd."""
    model = WanTransformer3DModel.from_pretrained(path, **({"quantization_config": config} if config else {}), **options)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


@torch.no_grad()
def run(model):
    generator = torch.Generator().manual_seed(1)
    video, text = torch.randn(1, 4, 3, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
    return model(video.to(model.dtype), torch.tensor([500.0]), text.to(model.dtype), return_dict=False)[0]


def schemes_of(model):
    return {n: m.scheme for n, m in model.named_modules() if isinstance(m, aerogel.QuantizedLinear)}


@pytest.mark.parametrize("source", ["float", "shards"])
def test_loading_gives_the_bits_of_quantize(folder, source):
    choice = {"exclude": ["*.attn2.*"], "fallback_layers": {"*ffn.net.2": "W8A16", "blocks.1.attn1.to_q": "W16A16"}}
    model = load(folder / source, AerogelConfig("w8a8_dynamic", **choice))
    other = load(folder / "float")
    report = aerogel.quantize(other, online_config=aerogel.OnlineQuantConfig("W8A8_DYNAMIC", choice["fallback_layers"]),
                              exclude=choice["exclude"])
    assert schemes_of(model) == schemes_of(other) and len(schemes_of(model)) == 11
    assert torch.equal(run(model), run(other)) and not torch.equal(run(model), run(load(folder / "float")))
    ours = model.hf_quantizer.report
    assert [(r.name, r.scheme, r.why) for r in ours.layers] == [(r.name, r.scheme, r.why) for r in report.layers]
    assert ours.bytes_after < ours.bytes_before / 2


def test_a_configuration_serves_for_two_models(folder):
    config = AerogelConfig("W8A16", include=["*attn1*"])
    assert schemes_of(load(folder / "float", config)) == schemes_of(load(folder / "float", config)) != {} and config.layers is None


@pytest.mark.parametrize("source", ["float", "shards"])
def test_layers_from_files_of_the_command(folder, source, tmp_path, aerogel_command):
    aerogel_command("quantize", folder / "float", "-o", tmp_path / "q", "--scheme", "W4A8")
    description = next((tmp_path / "q").glob("*.json"))
    model = load(folder / source, AerogelConfig(description=description, exclude=["*.attn2.*"]))
    other = load(folder / "float")
    aerogel.quantize(other, description, exclude=["*.attn2.*"])
    assert schemes_of(model) == schemes_of(other) and set(schemes_of(model).values()) == {"W4A8"} and len(schemes_of(model)) == 12
    assert torch.equal(run(model), run(other))
    model.save_pretrained(tmp_path / "saved")
    assert "description" not in str(model.config.quantization_config) and torch.equal(run(load(tmp_path / "saved")), run(model))


class Direct(torch.nn.Module):
    """Attention without a processor, which calls torch."""
    heads, head_dim = 2, 32

    def forward(self, q):
        return torch.nn.functional.scaled_dot_product_attention(q, q, q)


class WithoutProcessors(ModelMixin, ConfigMixin):
    config_name = "config.json"

    def __init__(self):
        super().__init__()
        self.a, self.b = Direct(), torch.nn.Linear(8, 8)


@torch.no_grad()
def test_attention_of_files_reaches_modules_without_processors(tmp_path):
    WithoutProcessors().save_pretrained(tmp_path / "float")
    save_file({"x": torch.ones(1)}, tmp_path / "quant_model_weight_w8a16.safetensors")
    (tmp_path / "d.json").write_text(json.dumps({"model_quant_type": "W8A16", "x": "FLOAT", "a.quant_type": "INT8_DYNAMIC"}))
    model = WithoutProcessors.from_pretrained(tmp_path / "float", quantization_config=AerogelConfig(description=tmp_path / "d.json"))
    q = torch.randn(1, 2, 40, 32)
    assert model.hf_quantizer.report.attention == {"a": "int8"}
    assert torch.equal(model.a(q), aerogel.quantized_attention(q, q, q, "int8"))


def test_include_reaches_every_linear(folder):
    model = load(folder / "float", AerogelConfig("W8A16", include=["*"], exclude="proj_out"))
    assert len(schemes_of(model)) == 23 and isinstance(model.proj_out, torch.nn.Linear)
    whys = {r.name: r.why for r in model.hf_quantizer.report.layers if r.why}
    assert whys["condition_embedder.time_embedder.linear_1"] == "the model keeps it in float32" and len(whys) == 3


@pytest.mark.parametrize("source", ["float", "shards"])
def test_float_weights_of_quantized_layers_are_never_in_the_model(folder, source, monkeypatch):
    names, original, there = list(schemes_of(load(folder / "float", AerogelConfig("W8A16")))), loading.put, []

    def put(model, name, layer):
        original(model, name, layer)
        waiting = [model.get_submodule(n) for n in names if n != name]
        there.append([m for m in waiting if isinstance(m, torch.nn.Linear) and m.weight.device.type != "meta"])

    monkeypatch.setattr(loading, "put", put)
    load(folder / source, AerogelConfig("W8A16"))
    assert there == [[]] * 20


@pytest.mark.parametrize("scheme", SCHEMES)
def test_saved_and_loaded_again(folder, tmp_path, scheme):
    group = 32 if scheme in ("W8A16", "W4A16") else 0
    model = load(folder / "float", AerogelConfig(scheme, group_size=group))
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert set(schemes_of(again).values()) == {scheme} and schemes_of(again) == schemes_of(model)
    assert torch.equal(run(again), run(model))
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "aerogel" and config["layers"]["blocks.0.attn1.to_q"]["scheme"] == scheme
    assert again.blocks[0].attn1.to_q.group_size == model.blocks[0].attn1.to_q.group_size in (group, 32)
    assert (tmp_path / WEIGHTS).stat().st_size < 0.75 * (folder / "float" / WEIGHTS).stat().st_size


def test_16_bit_models_keep_the_quantized_numbers(folder, tmp_path):
    """The rest becomes bfloat16; weights are quantized from the file's numbers, and scales stay float32, also when loaded again."""
    model = load(folder / "float", AerogelConfig("W8A8_DYNAMIC"), torch_dtype=torch.bfloat16)
    exact = load(folder / "float", AerogelConfig("W8A8_DYNAMIC"))
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    again = load(tmp_path, torch_dtype=torch.bfloat16)
    assert model.dtype == again.dtype == torch.bfloat16 and torch.equal(run(model), run(again))
    for name in schemes_of(exact):
        for one, two in zip(model.get_submodule(name).buffers(), exact.get_submodule(name).buffers(), strict=True):
            assert one.dtype == two.dtype and torch.equal(one, two)
    assert model.blocks[0].norm2.weight.dtype == torch.float32  # what the model itself keeps in float32
    assert model.to(torch.float16).dtype == torch.float16


def test_in_place_quantized_models_save_themselves(folder, tmp_path):
    """Also what from_pretrained cannot make: static scales per sampling step, as they come from files."""
    model = load(folder / "float")
    aerogel.quantize(model, scheme="W8A8_DYNAMIC", include=["*attn1*"])
    linear = model.blocks[0].ffn.net[2]
    weight_scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
    weight = (linear.weight.detach() / weight_scale).round().to(torch.int8)
    input_scale, input_offset = torch.tensor([0.01, 0.02]), torch.tensor([3.0, -5.0])
    deq_scale = input_scale[:, None] * weight_scale[:, 0]
    quant_bias = (linear.bias.detach() / deq_scale - input_offset[:, None] * weight.sum(1)).round().to(torch.int32)
    arrays = {"weight": weight, "weight_scale": weight_scale, "bias": linear.bias.detach().clone(), "input_scale": input_scale,
              "input_offset": input_offset, "quant_bias": quant_bias, "deq_scale": deq_scale}
    model.blocks[0].ffn.net[2] = aerogel.QuantizedLinear.from_arrays("W8A8_TIMESTEP", 96, arrays)
    describe(model)
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert schemes_of(again) == schemes_of(model) and "W8A8_TIMESTEP" in schemes_of(again).values()
    try:
        for step in range(2):
            aerogel.TimestepManager.set_timestep_idx(step)
            assert torch.equal(run(again), run(model))
    finally:
        aerogel.TimestepManager.set_timestep_idx(None)


def test_the_folder_may_be_overwritten(folder, tmp_path):
    load(folder / "float", AerogelConfig("W8A16")).save_pretrained(tmp_path)
    model = load(tmp_path)
    before = run(model)
    load(folder / "float", AerogelConfig("W4A16")).save_pretrained(tmp_path)
    assert torch.equal(run(model), before) and set(schemes_of(load(tmp_path)).values()) == {"W4A16"}


def test_dequantize(folder, tmp_path):
    model = load(folder / "float", AerogelConfig("W4A16", group_size=32))
    before = run(model)
    model.dequantize()
    assert not schemes_of(model) and not hasattr(model, "hf_quantizer")
    torch.testing.assert_close(run(model), before, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    assert torch.equal(run(load(tmp_path)), run(model))


def test_single_files(folder):
    model = WanTransformer3DModel.from_single_file(str(folder / "float" / WEIGHTS), config=str(folder / "float"),
                                                   quantization_config=AerogelConfig("W8A8_DYNAMIC"))
    wanted = load(folder / "float", AerogelConfig("W8A8_DYNAMIC"))
    assert schemes_of(model) == schemes_of(wanted)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), wanted.state_dict().values(), strict=True))


def test_pipelines(tmp_path):
    pipe, arguments = build("wan")
    pipe.save_pretrained(tmp_path / "float")
    config = PipelineQuantizationConfig(quant_mapping={"transformer": AerogelConfig("W8A8_DYNAMIC")})
    quantized = WanPipeline.from_pretrained(tmp_path / "float", quantization_config=config, **NO_PARTS)
    assert len(schemes_of(quantized.transformer)) == 20
    quantized.save_pretrained(tmp_path / "quantized")
    again = WanPipeline.from_pretrained(tmp_path / "quantized", **NO_PARTS)
    for loaded in (quantized, again):
        loaded.set_progress_bar_config(disable=True)
        for parameter in loaded.transformer.parameters():
            parameter.data = parameter.data.clone()
    assert torch.equal(latents(again, arguments), latents(quantized, arguments))


def test_config():
    config = AerogelConfig("w8a8_dynamic", exclude="*ffn*", fallback_layers={"*attn2*": "w8a16"})
    assert config.scheme == "W8A8_DYNAMIC" and config.exclude == ["*ffn*"] and config.fallback_layers == {"*attn2*": "W8A16"}
    assert AerogelConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    assert '"exclude"' in repr(config) and "group_size" not in repr(config)
    for arguments, message in [({"scheme": "W9A9"}, "W9A9"), ({"fallback_layers": {"*": "W9"}}, "W9"), ({"quant_method": "gguf"}, "quant_method")]:
        with pytest.raises(ValueError, match=message):
            AerogelConfig(**arguments)


def test_what_cannot_be_loaded(folder, tmp_path):
    with pytest.raises(ValueError, match="W8A8_TIMESTEP needs calibrated activation ranges"):
        load(folder / "float", AerogelConfig("W8A8_TIMESTEP"))
    with pytest.raises(NotImplementedError, match="layers run on the CPU or on NVIDIA GPUs, got xpu"):
        load(folder / "float", AerogelConfig("W8A16"), device_map={"": "xpu"})
    with pytest.raises(ValueError, match="blocks.9"):
        load(folder / "float", AerogelConfig("W8A16", include=["blocks.9.*"]))


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, {"blocks": "cpu", "": "cpu"}], ids=str)
def test_device_maps_of_the_cpu(folder, tmp_path, device_map):
    """accelerate's hooks, where it sets some, leave quantized layers and their files as they are."""
    model = load(folder / "float", AerogelConfig("W8A8_DYNAMIC"), device_map=device_map)
    wanted = load(folder / "float", AerogelConfig("W8A8_DYNAMIC"))
    assert schemes_of(model) == schemes_of(wanted) and torch.equal(run(model), run(wanted))
    model.save_pretrained(tmp_path)
    assert torch.equal(run(load(tmp_path, device_map=device_map)), run(wanted)) and torch.equal(run(load(tmp_path)), run(wanted))
    plan = aerogel.enable_sparse_attention(model, sparse_type=None)
    run(model)
    assert plan.report.why == {"sparse_type is None": 4}


def test_other_places_are_refused(folder):
    with pytest.raises(NotImplementedError, match="layers run on the CPU or on NVIDIA GPUs, got disk in device_map"):
        load(folder / "float", AerogelConfig("W8A16"), device_map={"blocks.0": "disk", "": "cpu"}, offload_folder="x")


def broken(path, **changed):
    """Replaces arrays of the saved file; None removes."""
    arrays = load_file(path / WEIGHTS)
    arrays = {name: changed.get(name.replace(".", "_"), array) for name, array in arrays.items()}
    (path / WEIGHTS).unlink()
    save_file({n: a.clone() for n, a in arrays.items() if a is not None}, path / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("changed, message", [
    ({"blocks_0_attn1_to_q_weight_scale": None}, "blocks.0.attn1.to_q: .*scale must be"),
    ({"blocks_0_attn1_to_q_weight": torch.zeros(64, 32, dtype=torch.int8)}, "blocks.0.attn1.to_q: .*weight"),
    ({"blocks_0_attn1_to_q_weight": torch.zeros(64, 64)}, "blocks.0.attn1.to_q: .*i8"),
    ({f"blocks_0_attn1_to_q_{n}": None for n in ("weight", "weight_scale", "weight_offset", "bias")}, "hold nothing of .*blocks.0.attn1.to_q"),
])
def test_broken_files(folder, tmp_path, changed, message):
    load(folder / "float", AerogelConfig("W8A8_DYNAMIC")).save_pretrained(tmp_path)
    broken(tmp_path, **changed)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_files_of_another_model(folder, tmp_path):
    load(folder / "float", AerogelConfig("W8A8_DYNAMIC")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [({"num_layers": 1}, "no such Linear"), ({"ffn_dim": 64}, "ffn.net.0.proj: the model wants 64 outputs, got 96")]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_a_float_file_that_lacks_a_weight(folder, tmp_path):
    load(folder / "float").save_pretrained(tmp_path)
    broken(tmp_path, blocks_0_attn1_to_q_bias=None)
    with pytest.raises(ValueError, match="lack tensors of 1 layers.*blocks.0.attn1.to_q"):
        load(tmp_path, AerogelConfig("W8A16"))
