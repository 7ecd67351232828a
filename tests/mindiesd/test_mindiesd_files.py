"""quantize from description files: scripts as upstream's documentation shows them, overrides, and every name of the enumeration."""
import copy
import logging
import warnings

import aerogel
import pytest
import torch
from description_files import STEPS, Model, static_files, write
from mindiesd import QuantConfig, TimestepManager, TimestepPolicyConfig, quantize
from mindiesd.quantization.mode import QuantAlgorithm
from mindiesd.utils import ConfigError, ModelInitError, ParametersInvalid
from torch import nn


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture
def model():
    return Model().eval()


@torch.no_grad()
def test_a_script_with_a_timestep_policy(tmp_path, model):
    description, arrays, _ = static_files(tmp_path, model, "W8A8_TIMESTEP")
    x, exact = torch.randn(2, 9, 24), copy.deepcopy(model)

    # --- as written for Ascend ---
    policy = TimestepPolicyConfig()
    policy.register(range(0, 2), "dynamic")
    policy.register([2, 3], "static")
    model = quantize(model, description, timestep_policy=policy, dtype=torch.bfloat16)
    TimestepManager.set_timestep_idx_max(STEPS)
    outputs = []
    for i in range(STEPS):
        TimestepManager.set_timestep_idx(i)
        outputs.append(model(x))
    # ------------------------------

    assert model.blocks[1]["up"].scheme == "W8A8_TIMESTEP" and type(model.embed) is nn.Linear
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[2], outputs[3])
    assert relative(outputs[0], exact(x)) < 0.03
    layer, row = model.blocks[0]["up"], torch.randn(5, 64)
    for step, offset in ((2, 0.0), (3, 1.0)):  # the arithmetic of a static step, written out
        TimestepManager.set_timestep_idx(step)
        scale = 0.04 + 0.01 * step
        q = (row / scale + offset).round().clamp(-128, 127) - offset
        wanted = q @ arrays["blocks.0.up.weight"].float().T * (scale * arrays["blocks.0.up.weight_scale"].T) + exact.blocks[0]["up"].bias
        torch.testing.assert_close(layer(row), wanted, atol=2e-3, rtol=1e-3)
    with pytest.raises(ParametersInvalid, match="must not exceed the maximum of 4, got 5"):
        TimestepManager.set_timestep_idx(STEPS + 1)
    TimestepManager.set_timestep_idx(STEPS)  # as MindIE SD takes it
    torch.testing.assert_close(model(x), outputs[0])  # no range covers it: dynamic
    TimestepManager.set_timestep_idx_max(2)  # another video of fewer steps, before its first step
    TimestepManager.set_timestep_idx(0)
    assert TimestepManager.get_timestep_idx_max() == 2 and torch.equal(model(x), outputs[0])


@torch.no_grad()
def test_without_a_policy_every_step_is_dynamic_even_an_unknown_one(tmp_path, model):
    exact, x = copy.deepcopy(model), torch.randn(1, 7, 24)
    quantize(model, static_files(tmp_path, model, "W8A8_TIMESTEP")[0])
    assert TimestepManager.get_timestep_idx() is None and relative(model(x), exact(x)) < 0.03


@torch.no_grad()
def test_rotated_attention_of_files(tmp_path, model):
    description, arrays, entries = static_files(tmp_path, model, "W8A8_TIMESTEP")
    rotation = torch.linalg.qr(torch.randn(32, 32))[0]
    kinds = {"blocks.0.attn": "FP8_DYNAMIC", "blocks.1.attn": "MXFP4_DYNAMIC"}
    for name, kind in kinds.items():
        arrays |= {f"{name}.q_rot": rotation.bfloat16(), f"{name}.k_rot": rotation.bfloat16()}
        entries |= {f"{name}.q_rot": "FLOAT", f"{name}.k_rot": "FLOAT", f"{name}.quant_type": kind}
    description = write(tmp_path, "W8A8_TIMESTEP", arrays, entries)
    exact, x = copy.deepcopy(model), torch.randn(2, 40, 24)
    policy = TimestepPolicyConfig(default_strategy="dynamic")
    policy.register(range(0, 1), "FLOAT", target="fa")
    policy.register(1, "FP8", "fa")
    quantize(model, description, timestep_config=policy)
    assert [model.blocks[i]["attn"].fa_quant.format for i in (0, 1)] == ["fp8", "mxfp4"]
    attn = model.blocks[1]["attn"].fa_quant
    q, k, v = (torch.randn(2, 3, 40, 32) for _ in range(3))
    turn = dict(smooth_k=False, rotation=rotation.bfloat16())
    wanted = [aerogel.attention(q, k, v), aerogel.quantized_attention(q, k, v, "fp8", **turn), aerogel.quantized_attention(q, k, v, "mxfp4", **turn)]
    for step in range(3):
        TimestepManager.set_timestep_idx(step)
        torch.testing.assert_close(attn(q, k, v), wanted[step])
        assert relative(model(x), exact(x)) < 0.1
    assert not torch.equal(wanted[0], wanted[1]) and not torch.equal(wanted[1], wanted[2])
    del arrays["blocks.0.attn.q_rot"]
    with pytest.raises(ParametersInvalid, match=r"'blocks.0.attn.q_rot' \(FP8_DYNAMIC\) must be in the file, got nothing"):
        quantize(Model(), write(tmp_path, "W8A8_TIMESTEP", arrays, entries))


@torch.no_grad()
def test_calibrated_int8_attention_of_older_files(tmp_path, model):
    description, arrays, entries = static_files(tmp_path, model, "W8A8_TIMESTEP")
    for part in "qkv":
        for kind, value in (("scale", 0.02), ("offset", 0.0)):
            arrays[f"blocks.1.attn.fa_{part}.{kind}"], entries[f"blocks.1.attn.fa_{part}.{kind}"] = torch.full((2, 1), value), "FAQuant"
    exact, x = copy.deepcopy(model), torch.randn(2, 9, 24)
    quantize(model, write(tmp_path, "W8A8_TIMESTEP", arrays, entries))
    attn = model.blocks[1]["attn"]
    assert attn.fa3.format == "int8" and not hasattr(model.blocks[0]["attn"], "fa3")
    q, k, v = (torch.randn(18, 2, 32) for _ in range(3))
    scales = {f"{n}_scale": torch.full((2,), 0.02) for n in "qkv"}
    wanted = aerogel.quantized_attention(q, k, v, "int8", scales=scales, seq_len=[9, 9], smooth_k=False)
    torch.testing.assert_close(attn.fa3.forward(q, k, v, [9, 9]), wanted)
    assert relative(model(x), exact(x)) < 0.05
    arrays["blocks.1.attn.fa_q.scale"] = torch.full((9, 1), 0.02)
    with pytest.raises(ParametersInvalid, match=r"'blocks.1.attn.fa_q.scale' \(FAQUANT\) must be \[2,1\], one per head of this model, got f32\[9,1\]"):
        quantize(Model(), write(tmp_path, "W8A8_TIMESTEP", arrays, entries))


@pytest.mark.parametrize("name", ["W8A8_PER_CHANNEL", "W8A8_PER_TENSOR", "W8A8_PER_CHANNEL_PER_TENSOR", "W8A8_PER_CHANNEL_PER_TOKEN",
                                  "W8A8_PER_TENSOR_PER_TOKEN", "W8A8"])
@torch.no_grad()
def test_names_of_int8_in_files(tmp_path, name):
    reference, renamed, x = Model(), Model(), torch.randn(3, 5, 24)
    renamed.load_state_dict(reference.state_dict())
    quantize(renamed, static_files(tmp_path, renamed, "W8A8", stored_as=name)[0])
    plain = quantize(reference, static_files(tmp_path, reference, "W8A8")[0],
                     quant_algo="W8A8_DYNAMIC" if name.endswith("TOKEN") else None)
    assert renamed.blocks[0]["up"].scheme == plain.blocks[0]["up"].scheme and torch.equal(renamed(x), plain(x))


@pytest.mark.parametrize("name", ["NO_QUANT", "MIXED_PERCISION", "W16A16"])
def test_names_that_leave_layers_float(tmp_path, name):
    model = Model()
    _, arrays, entries = static_files(tmp_path, model, "W8A8")
    entries = {k: name if "blocks.1." in k else v for k, v in entries.items()}
    quantize(model, write(tmp_path, "W8A8", arrays, entries))
    assert type(model.blocks[1]["up"]) is nn.Linear and model.blocks[0]["up"].scheme == "W8A8"


SCHEMES = ["W8A16", "W4A16", "W8A8_DYNAMIC", "W4A4_DYNAMIC", "W8A8_MXFP8", "W4A4_MXFP4", "W4A4_MXFP4_DUALSCALE", "W4A4_MXFP4_SVD",
           "W4A8"]
RENAMED = {"W4A16_AWQ": "W4A16", "W4A16_GPTQ": "W4A16", "W8A16_GPTQ": "W8A16", "W4A8_AWQ": "W4A8", "INT8": "W8A16"}


@pytest.mark.parametrize("name", [*SCHEMES, *RENAMED])
@torch.no_grad()
def test_weights_in_files_give_the_numbers_of_memory(tmp_path, name):
    """The arrays of layers quantized in memory, written under the name, read back."""
    model = Model()
    memory = copy.deepcopy(model)
    report = aerogel.quantize(memory, scheme=RENAMED.get(name, name))
    arrays, entries = {}, {}
    for layer in report.quantized:
        for tensor, array in memory.get_submodule(layer).named_buffers():
            eight_bit_float = name == "W8A8_MXFP8" and tensor == "weight"
            arrays[f"{layer}.{tensor}"] = array.view(torch.float8_e4m3fn) if eight_bit_float else array
            entries[f"{layer}.{tensor}"] = "FLOAT" if tensor == "bias" or "lowrank" in tensor else name
    quantize(model, write(tmp_path, name, arrays, entries))
    x = torch.randn(2, 5, 24)
    assert model.blocks[0]["up"].scheme == memory.blocks[0]["up"].scheme and torch.equal(model(x), memory(x))


@pytest.mark.parametrize("name", ["FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC"])
def test_attention_types_on_linear_layers_are_refused(tmp_path, name):
    model = Model()
    _, arrays, entries = static_files(tmp_path, model, "W8A8")
    entries["blocks.0.up.weight"] = name
    with pytest.raises(NotImplementedError, match=f"{name} is of attention, not of Linear layers; .* use WFP8AFP8_DYNAMIC"):
        quantize(model, write(tmp_path, "W8A8", arrays, entries))
    assert type(model.blocks[1]["up"]) is nn.Linear


@torch.no_grad()
def test_a_config_overrides_the_description(tmp_path, model):
    description, _, _ = static_files(tmp_path, model, "W8A8_TIMESTEP")
    config = QuantConfig(quant_des_path=description, quant_algo="w8a8_dynamic", exclude_layers=["blocks.0.down.weight", "blocks.1.attn.to_q"])
    quantize(model, quant_config=config)
    schemes = {name: getattr(m, "scheme", "FLOAT") for name, m in model.named_modules() if "blocks." in name and not list(m.children())}
    kept = [name for name, scheme in schemes.items() if scheme == "FLOAT"]
    assert kept == ["blocks.0.down", "blocks.1.attn.to_q"] and schemes["blocks.0.up"] == "W8A8_DYNAMIC"
    model(torch.randn(1, 2, 24))
    some = Model()
    quantize(some, description, quant_config=QuantConfig(quantized_layers={"blocks.0.up.weight": {"quant_algo": "W8A8_DYNAMIC"},
                                                                           "blocks.1.up": QuantConfig(quant_algo=QuantAlgorithm.W8A8_TIMESTEP)}))
    found = {n: m.scheme for n, m in some.named_modules() if hasattr(m, "scheme")}
    assert found == {"blocks.0.up": "W8A8_DYNAMIC", "blocks.1.up": "W8A8_TIMESTEP"}


@torch.no_grad()
def test_w4a4_files_take_w4a8_steps(tmp_path):
    model, x = Model(), torch.randn(2, 5, 24)
    memory, arrays, entries = copy.deepcopy(model), {}, {}
    for layer in aerogel.quantize(memory, scheme="W4A4_MXFP4").quantized:
        for tensor, array in memory.get_submodule(layer).named_buffers():
            arrays[f"{layer}.{tensor}"], entries[f"{layer}.{tensor}"] = array, "FLOAT" if tensor == "bias" else "W4A4_MXFP4"
    description = write(tmp_path, "W4A4_MXFP4", arrays, entries)
    wide = quantize(copy.deepcopy(model), description, quant_algo="W4A8")
    policy = TimestepPolicyConfig(w4a4_default_strategy="W4A4")
    policy.register(5, "W4A8")
    quantize(model, description, timestep_config=policy)
    assert wide.blocks[0]["up"].scheme == "W4A8_MXFP"
    narrow = model(x)
    TimestepManager.set_timestep_idx(5)
    torch.testing.assert_close(model(x), wide(x))
    assert relative(narrow, wide(x)) > 1e-3


def test_returns_the_model_and_tells_what_was_done(tmp_path, model, caplog):
    description, _, _ = static_files(tmp_path, model, "W8A8")
    with caplog.at_level(logging.INFO, logger="mindiesd"):
        assert quantize(model, description) is model
    assert "12 W8A8" in caplog.text and "attention: 0 quantized" in caplog.text


def test_what_has_no_effect_is_said_once(tmp_path, model, monkeypatch):
    monkeypatch.setattr("mindiesd.quantization.config._said", set())  # other tests may have been told
    description, _, _ = static_files(tmp_path, model, "W8A8")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            quantize(Model(), description, use_nz=True, mxfp4_scale_alg=2)
    assert sorted(str(w.message).split(" has")[0] for w in said) == ["[mindiesd] mxfp4_scale_alg", "[mindiesd] use_nz"]


def test_errors(tmp_path, model):
    description, _, _ = static_files(tmp_path, model, "W8A8")
    a, b = TimestepPolicyConfig(), TimestepPolicyConfig()
    cases = [((3, description), {}, ParametersInvalid, "model must be an nn.Module"), ((model, "  "), {}, ConfigError, r"^\[MIE06E000002\] Config parameter err. .*quant_des_path"),
             ((model,), {}, ConfigError, "quant_des_path"), ((model, description), {"dtype": torch.float32}, ParametersInvalid, "dtype"),
             ((model, description), {"timestep_config": a, "timestep_policy": b}, ParametersInvalid, "mean the same"),
             ((model, description), {"timestep_config": 1}, ParametersInvalid, "TimestepPolicyConfig"),
             ((model, description), {"quant_config": {}}, ParametersInvalid, r"\[MIE06E000001\] Parameters invalid. .*QuantConfig"), ((model, description, 1), {}, ParametersInvalid, "online_config"),
             ((model, description), {"quant_algo": "W9A9"}, ModelInitError, "W8A8_TIMESTEP"), ((model, str(tmp_path / "no.json")), {}, OSError, "no.json"),
             ((model, description), {"quant_algorithm": 1}, TypeError, "quant_algorithm"),
             ((nn.ModuleDict({"a": nn.Linear(2, 2)}), description), {}, ParametersInvalid, "the model has no Linear 'blocks.0.attn.to_q'")]
    for arguments, keywords, error, message in cases:
        with pytest.raises(error, match=message):
            quantize(*arguments, **keywords)
    quantize(model, description, timestep_config=a, timestep_policy=a)
    for wrong in (dict(exclude_layers="x"), dict(dtype=torch.float32), dict(use_nz=1), dict(timestep_config=1), dict(quantized_layers=[1]),
                  dict(quantized_layers={"a": 1}), dict(mxfp4_scale_alg="a"), dict(mxfp4_dst_type_max="a")):
        with pytest.raises(ModelInitError, match=r"^\[MIE06E000004\] Model init err\. \[quantize\]"):
            QuantConfig(**wrong)


def test_policies():
    policy = TimestepPolicyConfig("static", fa_default_strategy="FP8")
    policy.register(range(2), "dynamic", target="linear").register([4], "W4A8").register(4, "FLOAT", "fa")
    assert [policy.get_strategy(s, "w8a8_static_linear") for s in (0, 2, None)] == ["dynamic", "static", "static"]
    assert [policy.get_strategy(s) for s in (4, 5, None)] == ["W4A8", "W4A4", "W4A4"]
    assert [policy.get_strategy(s, target="fa") for s in (4, 5)] == ["FLOAT", "FP8"]
    with pytest.raises(ValueError):
        policy.register(1, "MXFP4")
    with pytest.raises(ValueError):
        TimestepPolicyConfig("W4A4")
