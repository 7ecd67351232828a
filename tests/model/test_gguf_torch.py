"""GGUF files as the weights of diffusers' models and of an export: beside the float model of what the Python package `gguf` dequantizes."""

import inspect
import json

import aerogel
import gguf
import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from gguf.constants import GGMLQuantizationType
from safetensors.numpy import load_file
from test_gguf import DETECTED, flux2, fused, qwen_image, wan, write, z_image


@pytest.fixture
def command(request):
    return request.getfixturevalue("aerogel")  # a name that the package has here


def flux1():
    from diffusers import FluxTransformer2DModel
    torch.manual_seed(0)
    model = FluxTransformer2DModel(in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
                                   joint_attention_dim=48, pooled_projection_dim=24, guidance_embeds=True, axes_dims_rope=(8, 12, 12))
    state, original = dict(model.state_dict()), {}
    for end in ("weight", "bias"):
        tensor = state.pop(f"norm_out.linear.{end}")
        half = tensor.shape[0] // 2
        original[f"final_layer.adaLN_modulation.1.{end}"] = torch.cat([tensor[half:], tensor[:half]])
        for ours, theirs in (("to_q to_k to_v", "img"), ("add_q_proj add_k_proj add_v_proj", "txt")):
            names = [f"transformer_blocks.0.attn.{part}.{end}" for part in ours.split()]
            original[f"double_blocks.0.{theirs}_attn.qkv.{end}"] = fused(state, names)
        for i in range(2):
            stem = f"single_transformer_blocks.{i}."
            parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            original[f"single_blocks.{i}.linear1.{end}"] = fused(state, [f"{stem}{part}.{end}" for part in parts])
    rules = [("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"), ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
             ("attn.to_out.0", "img_attn.proj"), ("attn.to_add_out", "txt_attn.proj"), ("ff.net.0.proj", "img_mlp.0"),
             ("ff.net.2", "img_mlp.2"), ("ff_context.net.0.proj", "txt_mlp.0"), ("ff_context.net.2", "txt_mlp.2"),
             ("norm1.linear", "img_mod.lin"), ("norm1_context.linear", "txt_mod.lin"), (".norm.linear", ".modulation.lin"),
             ("x_embedder", "img_in"), ("context_embedder", "txt_in"), ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
             ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
             ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
             ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
             ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
             ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer")]
    for name, tensor in state.items():
        for ours, theirs in rules:
            name = name.replace(ours, theirs)
        if name.startswith("single_"):
            name = name.replace("attn.norm_q.weight", "norm.query_norm.scale").replace("attn.norm_k.weight", "norm.key_norm.scale")
            name = name.replace(".proj_out.", ".linear2.")
        else:
            name = name.replace("attn.norm_q.weight", "img_attn.norm.query_norm.scale")
            name = name.replace("attn.norm_k.weight", "img_attn.norm.key_norm.scale").replace("proj_out.", "final_layer.linear.")
        name = name.replace("single_transformer_blocks", "single_blocks").replace("transformer_blocks", "double_blocks")
        original[name] = tensor
    return model, original, convert_flux1


def convert_flux1(checkpoint):
    """diffusers' own function, which knows one width only."""
    name = "convert_flux_transformer_checkpoint_to_diffusers"
    source = inspect.getsource(getattr(single_file_utils, name))
    assert "inner_dim = 3072" in source
    scope = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", "inner_dim = 64"), scope)
    return scope[name](checkpoint)


def stored(tensor, kind):
    """(blocks of that type, the floats they mean) of matrices whose rows hold whole blocks, else floats as they are."""
    array = tensor.float().numpy()
    type_ = GGMLQuantizationType[kind]
    if array.ndim == 2 and array.shape[1] % gguf.constants.GGML_QUANT_SIZES[type_][0] == 0:
        data = gguf.quants.quantize(array, type_)
        if kind == "Q8_0":  # values that minmax would not choose: none reaches 127
            blocks = data.reshape(len(data), -1, 34)
            blocks[..., 2:] = (blocks[..., 2:].view(np.int8) // 2).view(np.uint8)
        return (data, kind), torch.from_numpy(gguf.quants.dequantize(data, type_).reshape(array.shape))
    flat = array.reshape(-1, *array.shape[2:]) if array.ndim == 5 else array
    return (flat, "F32"), tensor.float().clone()


def written(path, original, kind):
    """The file, and what its tensors mean under their own names."""
    tensors, meant = {}, {}
    for name, tensor in original.items():
        tensors[name], meant[name] = stored(tensor, kind)
    write(path, tensors)
    return meant


def called(model):
    """An output of the model's own forward."""
    generator = torch.Generator().manual_seed(2)

    def random(*shape):
        return torch.randn(*shape, generator=generator)
    kind = type(model).__name__
    with torch.no_grad():
        if kind == "WanTransformer3DModel":
            return model(random(1, model.config.in_channels, 1, 8, 8), torch.tensor([500.0]), random(1, 9, model.config.text_dim),
                         encoder_hidden_states_image=random(1, 7, 40)).sample
        if kind == "QwenImageTransformer2DModel":
            return model(random(1, 12, 16), random(1, 9, 32), timestep=torch.tensor([0.5]), img_shapes=[[(1, 3, 4)]]).sample
        if kind == "FluxTransformer2DModel":
            return model(random(1, 12, 16), random(1, 5, 48), random(1, 24), torch.tensor([0.5]), torch.zeros(12, 3), torch.zeros(5, 3),
                         torch.tensor([3.5])).sample
        if kind == "Flux2Transformer2DModel":
            return model(random(1, 12, 16), random(1, 5, 48), torch.tensor([0.5]), torch.zeros(1, 12, 4), torch.zeros(1, 5, 4),
                         torch.tensor([3.5])).sample
        return model([random(4, 1, 8, 8)], torch.tensor([0.5]), [random(9, 32)])[0][0]


@pytest.mark.parametrize("kind, scheme", [("Q8_0", "W8A16"), ("Q4_0", "W4A16"), ("Q5_1", "FLOAT")])
@pytest.mark.parametrize("make", [wan, z_image, flux2, flux1, qwen_image], ids=lambda make: make.__name__)
def test_a_model_takes_all_its_weights(tmp_path, make, kind, scheme):
    model, original, convert = make()
    assert set(DETECTED[make.__name__]) <= set(original)
    meant = written(tmp_path / "model.gguf", original, kind)
    wanted_model = type(model).from_config(model.config)
    theirs = convert(dict(meant))
    state = wanted_model.state_dict()
    missing = wanted_model.load_state_dict({name: theirs[name].reshape(state[name].shape) for name in state if name in theirs}, strict=False)
    assert all("norm_added_q" in name for name in missing.missing_keys)
    wanted = called(wanted_model)

    fresh = type(model).from_config(model.config)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(float("nan"))
        for name, parameter in fresh.named_parameters():
            if "norm_added_q" in name and make is wan:
                parameter.fill_(1)
    report = aerogel.quantize(fresh, tmp_path / "model.gguf")
    got = called(fresh)
    assert torch.linalg.norm(got - wanted) <= 2e-5 * torch.linalg.norm(wanted)
    schemes = {layer.scheme for layer in report.layers}
    assert scheme in schemes and schemes <= {scheme, "FLOAT"}
    if scheme != "FLOAT":
        assert {layer.group_size for layer in report.layers if layer.scheme == scheme} == {32}
    assert any("in the file" in layer.why for layer in report.layers if layer.scheme == "FLOAT") == (
        scheme == "FLOAT" or any(layer.scheme == "FLOAT" for layer in report.layers))
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, wanted_model.get_parameter(name)), name


def test_on_the_meta_device_and_in_half_precision(tmp_path):
    from accelerate import init_empty_weights
    model, original, _ = wan()
    written(tmp_path / "model.gguf", original, "Q8_0")
    real = type(model).from_config(model.config).to(torch.bfloat16)
    aerogel.quantize(real, tmp_path / "model.gguf")
    with init_empty_weights():
        empty = type(model).from_config(model.config).to(torch.bfloat16)
    aerogel.quantize(empty, tmp_path / "model.gguf")
    assert not any(parameter.is_meta for parameter in empty.parameters())
    for name, parameter in empty.named_parameters():
        if "norm_added_q" not in name:
            assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, real.get_parameter(name)), name


def test_layers_by_other_schemes(tmp_path):
    """Quantized from what the blocks mean, as a model that holds those floats."""
    model, original, convert = flux1()
    meant = written(tmp_path / "model.gguf", original, "Q5_0")
    asked = []

    def scheme_of(name, kind):
        asked.append((name, kind))
        return "W8A8_DYNAMIC" if ".ff." in name else "FLOAT" if "attn" in name else kind

    fresh = type(model).from_config(model.config)
    report = aerogel.quantize(fresh, tmp_path / "model.gguf", scheme_of=scheme_of, exclude="*to_out*")
    floats = type(model).from_config(model.config)
    floats.load_state_dict({name: tensor.reshape(floats.state_dict()[name].shape) for name, tensor in convert(dict(meant)).items()})
    aerogel.quantize(floats, scheme="W8A8_DYNAMIC", include="*.ff.*")
    assert torch.equal(called(fresh), called(floats))
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["transformer_blocks.0.ff.net.2"].scheme == "W8A8_DYNAMIC"
    assert by_name["transformer_blocks.0.attn.to_q"].why == "as asked for"
    assert by_name["transformer_blocks.0.attn.to_out.0"].why == "not chosen by include and exclude"
    assert ("transformer_blocks.0.attn.to_q", "Q5_0") in asked and not any("to_out" in name for name, _ in asked)
    with pytest.raises(ValueError, match="W8A8_TIMESTEP needs calibration"):
        aerogel.quantize(type(model).from_config(model.config), tmp_path / "model.gguf", scheme_of=lambda name, kind: "W8A8_TIMESTEP")


def test_files_that_do_not_fit_change_nothing(tmp_path):
    model, original, _ = z_image()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changes = {
        "missing": (lambda t: t.pop("layers.0.attention.qkv.weight"), "3 missing tensors: layers.0.attention.to_q.weight"),
        "shape": (lambda t: t.update({"cap_embedder.1.bias": torch.zeros(5)}), r"cap_embedder.1.bias \[5\] instead of \[64\]"),
        "unknown": (lambda t: t.update(foreign=torch.zeros(3)), "1 unexpected tensors: foreign"),
    }
    for case, (change, message) in changes.items():
        broken = dict(original)
        change(broken)
        written(tmp_path / f"{case}.gguf", broken, "Q8_0")
        with pytest.raises(ValueError, match=message) as error:
            aerogel.quantize(model, tmp_path / f"{case}.gguf")
        assert f"{case}.gguf" in str(error.value) and len(str(error.value).splitlines()) == 1
    (tmp_path / "short.gguf").write_bytes((tmp_path / "unknown.gguf").read_bytes()[:2000])
    with pytest.raises(ValueError, match="short.gguf"):
        aerogel.quantize(model, tmp_path / "short.gguf")
    with pytest.raises(OSError, match="none.gguf"):
        aerogel.quantize(model, tmp_path / "none.gguf")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("make", [wan, flux2], ids=lambda make: make.__name__)
def test_an_export_keeps_the_stored_values(tmp_path, command, make):
    """Under the names of diffusers; the command and Python write the same bytes."""
    model, original, convert = make()
    meant = convert(dict(written(tmp_path / "model.gguf", original, "Q8_0")))
    done = command("quantize", tmp_path / "model.gguf", "-o", tmp_path / "a", "--scheme", "W8A16", "--group-size", "32", "--json")
    assert done.returncode == 0, done.stderr
    aerogel.export(tmp_path / "model.gguf", tmp_path / "b", "W8A16", group_size=32, progress=False)
    weights = "quant_model_weight_w8a16.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()
    report = json.loads(done.stdout)
    assert report["layers"] and all(layer["relative_error"] == 0 for layer in report["layers"])
    pair = load_file(tmp_path / "a" / weights)
    for layer in report["layers"]:
        name = layer["name"] + ".weight"
        scale = pair[name + "_scale"].astype(np.float32).reshape(pair[name].shape[0], -1)
        values = pair[name].astype(np.float32).reshape(*scale.shape, 32) * scale[..., None]
        assert np.array_equal(values.reshape(pair[name].shape), meant[name].numpy()), name

    dynamic = command("quantize", tmp_path / "model.gguf", "-o", tmp_path / "c", "--scheme", "W8A8_DYNAMIC")
    assert dynamic.returncode == 0, dynamic.stderr
    floats = type(model).from_config(model.config)
    state = floats.state_dict()
    floats.load_state_dict({name: meant[name].reshape(state[name].shape) for name in state if name in meant}, strict=False)
    floats.save_pretrained(tmp_path / "floats")
    again = command("quantize", tmp_path / "floats", "-o", tmp_path / "d", "--scheme", "W8A8_DYNAMIC")
    assert again.returncode == 0, again.stderr
    weights = "quant_model_weight_w8a8_dynamic.safetensors"
    a, b = load_file(tmp_path / "c" / weights), load_file(tmp_path / "d" / weights)
    assert all(np.array_equal(a[name], b[name]) for name in a if a[name].dtype == np.int8)
