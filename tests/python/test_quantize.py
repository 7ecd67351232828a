"""aerogel.quantize on torch models: in memory and from files, against each other, the command and the float model."""
import copy
import itertools
import json

import aerogel
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers import transformer_wan
from safetensors.torch import load_file, save_file
from torch import nn

WAN = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=24, freq_dim=32,
           ffn_dim=96, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32)


def wan():
    torch.manual_seed(3)
    return WanTransformer3DModel(**WAN).eval()


def run(model):
    generator = torch.Generator().manual_seed(1)
    video, text = torch.randn(1, 4, 3, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        return model(video, torch.tensor([500.0]), text, return_dict=False)[0]


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


def test_two_lines_quantize_a_diffusers_transformer():
    model = wan()
    exact = run(model)
    report = aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    names = [n for n, m in model.named_modules() if isinstance(m, aerogel.QuantizedLinear)]
    assert names == report.quantized and len(names) == 20
    assert all(n.startswith("blocks.") for n in names)
    assert {r.why for r in report.layers if r.scheme == "FLOAT"} == {"outside of the repeated blocks; include= chooses it"}
    assert report.bytes_after < 0.5 * report.bytes_before and "20 W8A8_DYNAMIC" in str(report)
    assert 1e-4 < relative(run(model), exact) < 0.03


def test_files_of_the_command_give_the_bits_of_memory(tmp_path, aerogel_command):
    model = wan()
    model.save_pretrained(tmp_path / "model")
    aerogel_command("quantize", tmp_path / "model", "-o", tmp_path / "q", "--scheme", "W8A8_DYNAMIC")
    description = tmp_path / "q/quant_model_description_w8a8_dynamic.json"
    from_files, in_memory = wan(), wan()
    a = aerogel.quantize(from_files, description)
    b = aerogel.quantize(in_memory, scheme="w8a8_dynamic")
    assert a.quantized == b.quantized and torch.equal(run(from_files), run(in_memory))
    assert aerogel.quantize(wan(), tmp_path / "q").quantized == a.quantized  # a folder with one description
    assert {r.why for r in a.layers if r.scheme == "FLOAT"} == {"marked FLOAT"}


def test_packed_weights_are_read_by_the_columns_of_the_model(tmp_path, aerogel_command):
    """A packed layer of zeros could be unpacked bytes as well: only the model tells."""
    model = wan()
    torch.nn.init.zeros_(model.blocks[0].attn1.to_q.weight)
    model.save_pretrained(tmp_path / "model")
    aerogel_command("quantize", tmp_path / "model", "-o", tmp_path / "q", "--scheme", "W4A16", "--packed")
    exact = model.blocks[0].attn1.to_q.bias.detach().clone()
    aerogel.quantize(model, tmp_path / "q")
    layer = model.blocks[0].attn1.to_q
    assert layer.scheme == "W4A16" and layer.weight.shape == (64, 32)
    torch.testing.assert_close(layer(torch.randn(3, 64)), exact.expand(3, -1))


def test_smoothed_layers_of_files_are_found_under_their_prefix(tmp_path):
    layer = nn.Linear(8, 6)
    model = nn.ModuleDict({"a": layer})
    s = torch.rand(8) + 0.5
    smooth = layer.weight.detach() * s
    scale = smooth.abs().amax(1, keepdim=True) / 127
    arrays = {"a.div.mul_scale": 1 / s, "a.linear.weight": (smooth / scale).round().to(torch.int8), "a.linear.weight_scale": scale,
              "a.linear.weight_offset": torch.zeros(6, 1), "a.linear.bias": layer.bias.detach().clone()}
    save_file(arrays, tmp_path / "quant_model_weight_w8a8_dynamic.safetensors")
    (tmp_path / "d.json").write_text(json.dumps({
        **{k: "FLOAT" if "div" in k or "bias" in k else "W8A8_DYNAMIC" for k in arrays}, "model_quant_type": "W8A8_DYNAMIC"}))
    x = torch.randn(9, 8)
    exact = layer(x)
    report = aerogel.quantize(model, tmp_path / "d.json")
    assert report.quantized == ["a"] and relative(model["a"](x), exact) < 0.02
    torch.testing.assert_close(model["a"].dequantized(), layer.weight.detach(), atol=0.01, rtol=0)


def test_timestep_policy_chooses_static_or_dynamic_scales(tmp_path, timestep_files):
    layer, description, arrays = timestep_files
    policy = aerogel.TimestepPolicyConfig(default_strategy="static").register(range(0, 1), "dynamic", "linear")
    model = nn.ModuleDict({"a": layer})
    aerogel.quantize(model, description, timestep_config=policy)
    x = torch.randn(4, 8)
    q, weight_scale = arrays["a.weight"].float(), arrays["a.weight_scale"]
    with pytest.raises(ValueError, match="timestep index must be in"):
        model["a"](x)
    for step in range(3):
        aerogel.TimestepManager.set_timestep_idx(step)
        s = x.abs().amax(1, keepdim=True) / 127 if step == 0 else arrays["a.input_scale"][step]
        offset = 0 if step == 0 else arrays["a.input_offset"][step]
        wanted = ((x / s + offset).round().clamp(-128, 127) - offset) @ q.T * (s * weight_scale.T)
        torch.testing.assert_close(model["a"](x), wanted + layer.bias, atol=2e-3, rtol=1e-3)
    aerogel.TimestepManager.set_timestep_idx(None)


@pytest.fixture
def timestep_files(tmp_path):
    layer = nn.Linear(8, 6)
    w = layer.weight.detach()
    weight_scale = w.abs().amax(1, keepdim=True) / 127
    q = (w / weight_scale).round()
    input_scale, input_offset = torch.tensor([0.01, 0.03, 0.05]), torch.tensor([0.0, -7.0, 12.0])
    deq = input_scale[:, None] * weight_scale[:, 0]
    arrays = {"a.weight": q.to(torch.int8), "a.weight_scale": weight_scale, "a.weight_offset": torch.zeros(6, 1),
              "a.input_scale": input_scale, "a.input_offset": input_offset, "a.deq_scale": deq,
              "a.quant_bias": (layer.bias.detach() / deq - input_offset[:, None] * q.sum(1)).round().to(torch.int32),
              "a.bias": layer.bias.detach().clone()}
    save_file(arrays, tmp_path / "quant_model_weight_w8a8_timestep.safetensors")
    description = tmp_path / "quant_model_description_w8a8_timestep.json"
    description.write_text(json.dumps({"model_quant_type": "W8A8_TIMESTEP", **{
        k: "FLOAT" if k.endswith("a.bias") else "W8A8_TIMESTEP" for k in arrays}}))
    return layer, description, arrays


def test_online_config_with_fallbacks():
    model = wan()
    config = aerogel.OnlineQuantConfig("W8A8_DYNAMIC", fallback_layers={"*attn2*": "W16A16", "blocks.1.ffn.*": "W8A16"})
    report = aerogel.quantize(model, online_config=config)
    schemes = {layer.name: layer.scheme for layer in report.layers}
    assert schemes["blocks.0.attn2.to_q"] == "FLOAT" and schemes["blocks.1.ffn.net.2"] == "W8A16"
    assert schemes["blocks.0.ffn.net.2"] == "W8A8_DYNAMIC"
    assert next(r.why for r in report.layers if r.name == "blocks.0.attn2.to_q") == "a fallback layer"


def test_include_exclude_and_map():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 8)), None
            self.out_features, self.in_features = 4, 8

    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "c": Mine()})
    report = aerogel.quantize(model, scheme="W8A16", include=["*"], exclude="b", map={Mine: None})
    assert report.quantized == ["a", "c"] and isinstance(model["b"], nn.Linear)


def test_a_wrong_request_changes_nothing(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    model["b"].weight.data[0, 0] = float("inf")
    cases = [
        (dict(scheme="W8A16"), ValueError, "inside repeated blocks"),
        (dict(scheme="W8A16", include=["*"]), ValueError, r"\[quantize\] b: "),
        (dict(scheme="W8A16", include=["c*"]), ValueError, "c"),
        (dict(), ValueError, "exactly one"),
        (dict(scheme="W8A16", online_config=aerogel.OnlineQuantConfig()), ValueError, "exactly one"),
        (dict(quant_des_path=tmp_path / "none.json"), OSError, "none.json"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            aerogel.quantize(model, **arguments)
        assert all(type(m) is nn.Linear for m in model.values())
    for wrong, message in ((dict(fa_layers="*attn1"), "go together"), (dict(fa_quant_type="FP8_DYNAMIC"), "go together"),
                           (dict(fa_layers="*attn1", fa_quant_type="INT8"), "fa_quant_type must be one of INT8_DYNAMIC")):
        with pytest.raises(ValueError, match=message):
            aerogel.OnlineQuantConfig(**wrong)


def test_attention_modules_get_a_quantized_attention():
    class Attention(nn.Module):
        inner_dim, heads = 64, 2

        def __init__(self):
            super().__init__()
            self.to_q, self.to_k = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, x):
            q, k = (to(x).unflatten(-1, (2, 32)).transpose(1, 2) for to in (self.to_q, self.to_k))
            return self.fa_quant(q, k, q) if hasattr(self, "fa_quant") else aerogel.attention(q, k, q)

    torch.manual_seed(0)
    model, x = nn.ModuleDict({"blocks": nn.ModuleList([Attention(), Attention()])}), torch.randn(1, 40, 64)
    before = model["blocks"][0](x)
    config = aerogel.OnlineQuantConfig("W8A16", fa_layers="blocks.0", fa_quant_type="FP8_DYNAMIC")
    report = aerogel.quantize(model, online_config=config)
    assert report.attention == {"blocks.0": "fp8"} and "attention of 1 modules" in str(report)
    assert not hasattr(model["blocks"][1], "fa_quant")
    error = float((model["blocks"][0](x) - before).norm() / before.norm())
    assert 0.001 < error < 0.1
    with pytest.raises(ValueError, match="pattern 'nothing' matches none of the"):
        aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A16", fa_layers="nothing", fa_quant_type="FP8_DYNAMIC"))


def test_a_description_for_another_model_is_refused(tmp_path, aerogel_command):
    wan().save_pretrained(tmp_path / "model")
    aerogel_command("quantize", tmp_path / "model", "-o", tmp_path / "q", "--scheme", "W8A16")
    narrow = WanTransformer3DModel(**{**WAN, "ffn_dim": 64})
    with pytest.raises(ValueError, match=r"'blocks.0.ffn.net.0.proj.weight' must be i8\[64,64\] for this model, got i8\[96,64\]"):
        aerogel.quantize(narrow, tmp_path / "q")
    short = WanTransformer3DModel(**{**WAN, "num_layers": 1})
    with pytest.raises(ValueError, match="the model has no Linear 'blocks.1"):
        aerogel.quantize(short, tmp_path / "q")
    assert not any(isinstance(m, aerogel.QuantizedLinear) for m in [*narrow.modules(), *short.modules()])
    weights = tmp_path / "q/quant_model_weight_w8a16.safetensors"
    arrays = load_file(weights)
    arrays["blocks.0.attn1.to_q.weight_scale"] = arrays["blocks.0.attn1.to_q.weight_scale"][:-1].clone()
    weights.chmod(0o644)
    save_file(arrays, weights)
    with pytest.raises(ValueError, match="blocks.0.attn1.to_q.weight_scale"):
        aerogel.quantize(wan(), tmp_path / "q")


@pytest.mark.parametrize("kind, format", [("FP8_DYNAMIC", "fp8"), ("MXFP4_DYNAMIC", "mxfp4"), ("INT8_DYNAMIC", "int8")])
def test_attention_of_diffusers_layers_is_quantized(monkeypatch, kind, format):
    """Against a model whose attention calls are exchanged by hand; copies and steps follow."""
    model, other = wan(), wan()
    policy = aerogel.TimestepPolicyConfig().register(1, "FLOAT", "fa")
    config = aerogel.OnlineQuantConfig("W8A16", fa_layers="*.attn1", fa_quant_type=kind, timestep_config=policy)
    report = aerogel.quantize(model, online_config=config)
    assert report.attention == {"blocks.0.attn1": format, "blocks.1.attn1": format} and not report.attention_in_float
    y, copied = run(model), run(copy.deepcopy(model))
    aerogel.TimestepManager.set_timestep_idx(1)
    in_float = run(model)
    aerogel.TimestepManager.set_timestep_idx(None)
    aerogel.quantize(other, scheme="W8A16")
    plain, calls = run(other), itertools.count()

    def dispatch(query, key, value, **_):
        call = next(calls)
        if call % 2 == 0:
            return model.blocks[call // 2].attn1.fa_quant(query, key, value, layout="BSND")
        return aerogel.attention(query, key, value, input_layout="BSND")

    monkeypatch.setattr(transformer_wan, "dispatch_attention_fn", dispatch)
    wanted = run(other)
    effect = relative(plain, wanted)
    assert effect > 1e-4 and relative(y, wanted) < 0.05 * effect and torch.equal(copied, y)
    assert relative(in_float, plain) < 0.05 * effect


def test_attention_of_a_description_may_stay_float(tmp_path):
    class Calling(nn.Module):
        heads, head_dim = 2, 32

        def forward(self, q):
            return self.fa_quant(q, q, q) if hasattr(self, "fa_quant") else q

    def made():
        return nn.ModuleDict({"a": Calling(), "b": Calling(), "c": nn.Linear(8, 8), "block": nn.Linear(8, 8)})

    save_file({"x": torch.ones(1)}, tmp_path / "quant_model_weight_w8a16.safetensors")
    types = {f"{name}.quant_type": "INT8_DYNAMIC" for name in "ab"}
    (tmp_path / "d.json").write_text(json.dumps({"model_quant_type": "W8A16", "x": "FLOAT", **types}))
    asked = []

    def scheme_of(name, stored):
        asked.append((name, stored))
        return {"a": "float", "b": "W8A8_DYNAMIC"}[name]

    report = aerogel.quantize(made(), tmp_path / "d.json", scheme_of=scheme_of)
    assert report.attention == {"b": "int8"} and list(report.attention_in_float) == ["a"]
    assert asked == [("a", "INT8_DYNAMIC"), ("b", "INT8_DYNAMIC")]
    with pytest.raises(ValueError, match="scheme_of must return the name of a scheme, got 8 for "):
        aerogel.quantize(made(), tmp_path / "d.json", scheme_of=lambda name, stored: 8)
    assert aerogel.quantize(made(), tmp_path / "d.json", scheme_of=lambda name, stored: None).attention == {"a": "int8", "b": "int8"}
    model = made()
    report = aerogel.quantize(model, tmp_path / "d.json", exclude="[a]")
    assert report.attention == {"b": "int8"} and report.attention_in_float == {"a": "excluded"} and not hasattr(model["a"], "fa_quant")
    report = aerogel.quantize(made(), tmp_path / "d.json", exclude=["b*"])  # both kinds
    assert report.attention == {"a": "int8"} and report.attention_in_float == {"b": "excluded"}
    with pytest.raises(ValueError, match="pattern 'nothing' matches none of the 2 Linear layers"):
        aerogel.quantize(made(), tmp_path / "d.json", exclude=["a", "nothing"])


@pytest.mark.parametrize("kind", ["FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC", "INT8_DYNAMIC"])
def test_attention_in_files_of_the_command_gives_the_bits_of_memory(tmp_path, aerogel_command, kind):
    wan().save_pretrained(tmp_path / "model")
    aerogel_command("quantize", tmp_path / "model", "-o", tmp_path / "q", "--scheme", "W8A16", "--fa", kind)
    from_files, in_memory, plain = wan(), wan(), wan()
    report = aerogel.quantize(from_files, tmp_path / "q")
    assert report.attention == aerogel.quantize(in_memory, online_config=aerogel.OnlineQuantConfig("W8A16", fa_layers="*.attn1", fa_quant_type=kind)).attention
    aerogel.quantize(plain, scheme="W8A16")
    assert len(report.attention) == 2 and torch.equal(run(from_files), run(in_memory)) and not torch.equal(run(from_files), run(plain))


def test_attention_that_cannot_be_quantized_is_named(tmp_path):
    class Plain(nn.Module):
        heads, head_dim = 2, 32

    class Calling(Plain):
        def forward(self, q):
            return self.fa_quant(q, q, q) if hasattr(self, "fa_quant") else q

    model = nn.ModuleDict({"a": Plain(), "b": Calling(), "c": nn.Linear(8, 8)})
    save_file({"x": torch.ones(1)}, tmp_path / "quant_model_weight_w8a16.safetensors")
    types = {f"{name}.quant_type": kind for name, kind in (("a", "INT8_DYNAMIC"), ("b", "INT8_DYNAMIC"))}
    (tmp_path / "d.json").write_text(json.dumps({"model_quant_type": "W8A16", "x": "FLOAT", **types}))
    report = aerogel.quantize(model, tmp_path / "d.json")
    assert report.attention == {"b": "int8"} and not hasattr(model["a"], "fa_quant")
    assert report.attention_in_float == {"a": "Plain has no processor of diffusers and calls neither its fa_quant nor torch's scaled_dot_product_attention"}
    assert "attention of 1 modules, attention of a in float (Plain has no processor" in str(report)
    q = torch.randn(1, 2, 40, 32)
    assert torch.equal(model["b"](q), aerogel.quantized_attention(q, q, q, "int8"))


class Direct(nn.Module):
    """As most models outside of diffusers: its forward calls torch's attention and knows nothing of Aerogel."""
    heads, head_dim = 2, 32

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 32)).movedim(-3, 0).transpose(2, 3)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["INT8_DYNAMIC", "FAQUANT"])
def test_attention_of_modules_that_call_torch_is_quantized_as_they_are(tmp_path, kind):
    """fa_quant, and fa3 of older files with calibrated scales, without a word of them in the model."""
    torch.manual_seed(2)
    model, x = nn.ModuleDict({"a": Direct(), "b": Direct()}), torch.randn(1, 50, 64)
    arrays = {"x": torch.ones(1)}
    types = {"x": "FLOAT", "a.quant_type": kind}
    if kind == "FAQUANT":
        types = {"x": "FLOAT"}
        for part in "qkv":
            for name, value in (("scale", 0.02), ("offset", 0.0)):
                arrays[f"a.fa3_{part}.{name}"], types[f"a.fa3_{part}.{name}"] = torch.full((2, 1), value), "FAQUANT"
    save_file(arrays, tmp_path / "quant_model_weight_w8a16.safetensors")
    (tmp_path / "d.json").write_text(json.dumps({"model_quant_type": "W8A16", **types}))
    exact = [model[name](x) for name in "ab"]
    report = aerogel.quantize(model, tmp_path / "d.json")
    assert report.attention == {"a": "int8"} and report.attention_in_float == {} and not hasattr(model["b"], "fa_quant")
    assert 1e-4 < relative(model["a"](x), exact[0]) < 0.05 and torch.equal(model["b"](x), exact[1])
    q, k, v = (t.squeeze(0) for t in model["a"].qkv(x).unflatten(-1, (3, 2, 32)).movedim(-3, 0).transpose(2, 3).split(1))
    scales = {f"{n}_scale": torch.full((2,), 0.02) for n in "qkv"} if kind == "FAQUANT" else None
    wanted = aerogel.quantized_attention(q, k, v, "int8", scales=scales, smooth_k=kind != "FAQUANT")
    torch.testing.assert_close(model["a"](x), model["a"].out(wanted.transpose(1, 2).flatten(2)))
    copied = copy.deepcopy(model)
    assert torch.equal(copied["a"](x), model["a"](x))


def test_sparse_and_quantized_attention_go_together():
    """What a sparse plan leaves dense is computed as the layer is quantized, whichever came first."""
    outputs = []
    for first in ("quantize", "sparse"):
        model = wan()
        config = aerogel.OnlineQuantConfig("W8A16", fa_layers="*.attn1", fa_quant_type="MXFP4_DYNAMIC")
        if first == "quantize":
            aerogel.quantize(model, online_config=config)
            dense = run(model)
        plan = aerogel.enable_sparse_attention(model, sparse_type="rf_v2", sparsity=0.5, start_step=5)
        if first == "sparse":
            aerogel.quantize(model, online_config=config)
        outputs.append(run(model))
        assert all(count.dense == 1 for count in plan.report.layers.values())
    assert all(torch.equal(output, dense) for output in outputs)
