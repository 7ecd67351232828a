"""aerogel inspect: models, quantized pairs with and without problems, kernels."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def pair(aerogel, tiny_pipeline, tmp_path):
    """(folder, weight file, description) of a good pair."""
    folder = tmp_path / "pair"
    assert aerogel("quantize", tiny_pipeline, "-o", folder, "--scheme", "W8A8_DYNAMIC", "--exclude", "*.attn2.*").returncode == 0
    return folder, folder / "quant_model_weight_w8a8_dynamic.safetensors", folder / "quant_model_description_w8a8_dynamic.json"


def report(done, code=0):
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_good_pair(aerogel, pair):
    folder, weights, description = pair
    found = report(aerogel("inspect", folder, "--json"))
    assert found == report(aerogel("inspect", description, "--json"))
    tensors = load_file(weights)
    assert found["kind"] == "quantized" and found["schemes"] == {"W8A8_DYNAMIC": 12} and found["problems"] == []
    assert found["bytes"] == sum(t.numel() * t.element_size() for t in tensors.values())
    layer = next(x for x in found["layers"] if x["name"] == "blocks.1.ffn.net.2")
    assert layer == {"name": "blocks.1.ffn.net.2", "scheme": "W8A8_DYNAMIC", "shape": [64, 96], "bytes": 64 * 96 + 3 * 64 * 4,
                     "smoothed": False, "steps": 0, "runs": True}
    sizes = [x["bytes"] * 8 for x in found["layers"]], [x["shape"][0] * x["shape"][1] for x in found["layers"]]
    assert found["bits_per_weight"] == pytest.approx(sum(sizes[0]) / sum(sizes[1]))
    why = {x["name"]: x["why"] for x in found["float_tensors"]}
    assert why["blocks.0.attn2.to_q.weight"] == "marked FLOAT" and "blocks.0.attn1.to_q.bias" not in why
    text = aerogel("inspect", folder).stdout
    assert "12 quantized layers" in text and "no problems" in text and "W8A8_DYNAMIC" in text
    assert "blocks.1.ffn.net.2 " in aerogel("inspect", folder, "--all").stdout


@pytest.mark.parametrize("name,value,problem", [
    ("blocks.0.ffn.net.2.weight_scale", None, "'blocks.0.ffn.net.2.weight_scale' (W8A8_DYNAMIC) must be in the file"),
    ("blocks.0.ffn.net.2.weight_scale", torch.full((64, 1), float("nan")), "weight_scale has the value nan"),
    ("blocks.0.ffn.net.2.weight_scale", torch.ones(32, 1), "must be [64,1] or [64,groups], got f32[32,1]"),
    ("blocks.0.ffn.net.2.weight", torch.zeros(64, 96), "must be i8[out_features,in_features], got f32[64,96]"),
    ("blocks.0.ffn.net.2.weight", None, "'blocks.0.ffn.net.2.weight' (W8A8_DYNAMIC) must be in the file"),
    ("blocks.0.ffn.net.2.bias", torch.zeros(96), "'blocks.0.ffn.net.2.bias'"),
    ("proj_out.weight", None, "'proj_out.weight' (FLOAT) is in the description but not in the weight file"),
])
def test_problems(aerogel, pair, name, value, problem):
    """Each is listed, the others still are, and the exit code tells."""
    folder, weights, _ = pair
    tensors = load_file(weights)
    tensors.pop(name)
    if value is not None:
        tensors[name] = value
    save_file(tensors, weights)
    done = aerogel("inspect", folder, "--json")
    found = report(done, code=1)
    assert problem in found["problems"][0] and len(found["layers"]) == 12
    assert done.stderr.endswith("problem\n") and done.stderr.count("\n") == 1
    assert problem in aerogel("inspect", folder).stdout


def test_scheme_that_is_not_there(aerogel, tmp_path):
    """Counted and sized; its scales are looked at: 255 stands for NaN in E8M0."""
    scale = torch.full((8, 2), 127, dtype=torch.uint8)
    for bad in (False, True):
        if bad:
            scale[3, 1] = 255
        tensors = {"fc.weight": torch.zeros(8, 64).to(torch.float8_e4m3fn), "fc.weight_scale": scale, "extra": torch.ones(2)}
        save_file(tensors, tmp_path / "quant_model_weight_w8a8_mix.safetensors")
        path = tmp_path / "quant_model_description_w8a8_mix.json"
        path.write_text(json.dumps({"fc.weight": "W8A8_MIX", "fc.weight_scale": "W8A8_MIX", "attn.quant_type": "Q_FP8_DYNAMIC_KV_FP8",
                                    "model_quant_type": "W8A8_MIX"}))
        found = report(aerogel("inspect", path, "--json"), code=int(bad))
        assert found["problems"] == (["'fc.weight_scale' (W8A8_MIX): 1 of 16 E8M0 scales are 255 (NaN)"] if bad else [])
        assert found["layers"][0]["runs"] is False and found["bits_per_weight"] == 8.25
        assert any("W8A8_MIX is not supported" in n for n in found["notes"])
        assert any("Q_FP8_DYNAMIC_KV_FP8 attention is not supported, it runs in float (1 of them)" in n for n in found["notes"])
        assert found["float_tensors"][0]["why"] == "not in the description"


def test_float_model(aerogel, tiny_pipeline):
    for path in (tiny_pipeline, tiny_pipeline / "transformer"):
        found = report(aerogel("inspect", path, "--json"))
        assert found["kind"] == "diffusers" and found["config"]["_class_name"] == "WanTransformer3DModel"
        assert len(found["linear_layers"]) == 26
    file = tiny_pipeline / "transformer/diffusion_pytorch_model.safetensors"
    found = report(aerogel("inspect", file, "--json"))
    assert found["kind"] == "safetensors" and len(found["tensors"]) == len(load_file(file))
    text = aerogel("inspect", tiny_pipeline).stdout
    assert "26 float Linear layers, 20 of them quantized by default" in text and "num_layers=2" in text
    assert "proj_out.weight f32[48,64]" in aerogel("inspect", tiny_pipeline, "--all").stdout


def test_kernels(aerogel):
    found = report(aerogel("inspect", "--kernels", "--json"))
    assert {"reference.linear", "reference.attention"} <= set(found["kernels"])
    assert report(aerogel("inspect", "--kernels", "--json", env={"AEROGEL_CPU": "baseline"}))["level"] == "baseline"
    assert "reference.linear" in aerogel("inspect", "--kernels").stdout


def test_refusals(aerogel, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no such thing")
    (tmp_path / "x.json").write_text("[]")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.json", tmp_path, "/nowhere"):
        done = aerogel("inspect", path)
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "give a PATH or --kernels" in aerogel("inspect").stderr


def test_components_of_a_pipeline_folder(aerogel, tiny_pipeline):
    """All components, what each scheme needs; classes that are not supported are named with those that are."""
    index = tiny_pipeline / "model_index.json"
    before = index.read_text() if index.exists() else None
    try:
        index.write_text(json.dumps({"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}))
        found = report(aerogel("inspect", tiny_pipeline, "--json"))
        (part,) = found["components"]
        assert found["supported"] and part["supported"] and part["linear_layers"] > part["quantized_by_default"] > 0
        assert part["bytes_by_scheme"]["W4A8"] < part["bytes_by_scheme"]["W8A8_DYNAMIC"] < part["bytes"] <= part["float_bytes"]
        assert part["automatic"]["scheme"] == "FLOAT" and part["automatic"]["bytes"] == part["float_bytes"]
        index.write_text(json.dumps({"_class_name": "CogPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}))
        text = aerogel("inspect", tiny_pipeline).stdout
        assert "not supported: 'CogPipeline'; supported are " in text and "WanPipeline" in text
    finally:
        index.write_text(before) if before is not None else index.unlink()


def write_large(path, shapes):
    """A file of bf16 or f32 tensors of these sizes, which takes no room on the disk: holes."""
    header, end = {}, 0
    for name, (dtype, shape) in shapes.items():
        begin, end = end, end + shape[0] * shape[1] * {"BF16": 2, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def components_of(aerogel, folder, rows):
    """What inspection says of a pipeline whose matrices have so many rows in all, by component."""
    write_large(folder / "transformer/diffusion_pytorch_model.safetensors", {
        "transformer_blocks.0.attn.to_q.weight": ("BF16", [6 * rows // 10, 2048]),
        "transformer_blocks.0.img_mod.1.weight": ("BF16", [3 * rows // 10, 2048])})
    write_large(folder / "text_encoder/model.safetensors", {
        "model.layers.0.mlp.up_proj.weight": ("F32", [rows // 10, 1024]), "lm_head.weight": ("F32", [rows, 1024]), "visual.x.weight": ("F32", [rows, 1024])})
    for part, config in (("transformer", {"_class_name": "QwenImageTransformer2DModel"}), ("text_encoder", {})):
        (folder / part / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "QwenImagePipeline", "transformer": ["diffusers", "QwenImageTransformer2DModel"],
        "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"]}))
    return {part["name"]: part for part in report(aerogel("inspect", folder, "--json"))["components"]}


def test_the_index_of_a_pipeline_stands_for_it(aerogel, tiny_pipeline, tmp_path):
    folder = shutil.copytree(tiny_pipeline, tmp_path / "pipeline")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]}))
    whole = aerogel("inspect", folder, "--json")
    assert report(whole)["components"]
    assert aerogel("inspect", folder / "model_index.json", "--json").stdout == whole.stdout
    assert aerogel("inspect", "model_index.json", cwd=folder).returncode == 0


def test_what_becomes_of_weights_that_are_large_for_the_memory(aerogel, tmp_path):
    """Inspection chooses as loading does; heads and vision towers of text encoders are not loaded and do not count."""
    small = components_of(aerogel, tmp_path / "small", 40)["transformer"]
    assert small["automatic"]["scheme"] == "FLOAT" and small["automatic"]["bytes"] == small["float_bytes"]
    parts = components_of(aerogel, tmp_path / "large", small["automatic"]["memory"] // 40960 * 10)
    image, text = parts["transformer"], parts["text_encoder"]
    assert image["automatic"]["scheme"] == "W8A8_DYNAMIC (transformer_blocks.*.{img_mod,txt_mod}.* to W8A16)"
    assert 0.4 < image["automatic"]["bytes"] / image["automatic"]["memory"] <= 0.5 < image["float_bytes"] / image["automatic"]["memory"]
    assert image["bytes_by_scheme"]["W8A8_DYNAMIC"] > image["automatic"]["bytes"]
    assert text["float_bytes"] == text["automatic"]["bytes"] == text["bytes"] // 21
