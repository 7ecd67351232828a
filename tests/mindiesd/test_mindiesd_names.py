"""The names of mindiesd.quantization and mindiesd.utils that scripts import: flags of algorithms, configurations as dictionaries, patterns,
ranks in file names, and the codes of errors."""
import copy

import pytest
import torch
from mindiesd.layers.activation import GELU
from mindiesd.quantization import (
    W8A8_LIST,
    LayerQuantConfig,
    OnlineQuantConfig,
    QuantAlgorithm,
    QuantConfig,
    QuantFlag,
    QuantMode,
    QuantModeDescriptor,
    TimestepManager,
    TimestepPolicyConfig,
    extract_constructor_args,
    get_quant_weight,
    replace_rank_suffix,
)
from mindiesd.quantization import utils as quantization_utils
from mindiesd.utils import ConfigError, ModelExecError, ModelInitError, ParametersInvalid, TorchError, logger
from mindiesd.utils.get_platform import NPUDevice, get_npu_device, is_a5_device
from torch import nn

F = QuantFlag
BOTH = F.INT8_WEIGHTS | F.ACTIVATION
FLAGS = {"W8A16": F.INT8_WEIGHTS, "W4A16": F.INT4_WEIGHTS, "W4A16_AWQ": F.INT4_WEIGHTS | F.PER_GROUP, "W4A8_AWQ": F.INT4_WEIGHTS | F.PER_GROUP,
         "W4A16_GPTQ": F.INT4_WEIGHTS | F.PER_GROUP, "W8A16_GPTQ": F.INT8_WEIGHTS | F.PER_GROUP, "W8A8": BOTH, "W8A8_TIMESTEP": BOTH,
         "W8A8_DYNAMIC": BOTH, "W8A8_PER_TENSOR": BOTH, "W8A8_PER_CHANNEL": BOTH | F.PER_CHANNEL, "W8A8_MXFP8": BOTH,
         "W8A8_PER_CHANNEL_PER_TENSOR": BOTH | F.PER_CHANNEL, "W8A8_PER_TENSOR_PER_TOKEN": BOTH | F.PER_TOKEN,
         "W8A8_PER_CHANNEL_PER_TOKEN": BOTH | F.PER_CHANNEL | F.PER_TOKEN, "W4A4_DYNAMIC": BOTH | F.PER_CHANNEL | F.PER_TOKEN,
         "W4A4_MXFP4": BOTH | F.PER_CHANNEL | F.PER_TOKEN, "W4A4_MXFP4_SVD": BOTH, "W4A4_MXFP4_DUALSCALE": BOTH,
         "FP8_DYNAMIC": F.FA_QUANT, "MXFP8_DYNAMIC": F.FA_QUANT, "MXFP4_DYNAMIC": F.FA_QUANT}


def test_flags_of_every_algorithm():
    for algorithm in QuantAlgorithm:
        assert QuantMode.from_quant_algo(algorithm).flag == FLAGS.get(algorithm.value, 0), algorithm
    assert QuantMode.from_quant_algo(None).flag == 0 and [int(flag) for flag in (F.FA_QUANT, F.PER_GROUP, F.COUNT, F.VALID_FLAG)] == [1, 128, 256, 255]
    assert {a for a in QuantAlgorithm if a.value.startswith("W8A8")} == set(W8A8_LIST)


def test_questions_about_flags():
    mode = QuantMode.from_quant_algo(QuantAlgorithm.W4A16_GPTQ)
    assert mode.check_weight_int4_only() and mode.check_weight_int4_only_with_group() and mode.check_weight_only_mode()
    assert not mode.check_weight_int8_only() and not mode.contains_activation_and_weight_quant() and mode.contains_per_group_scale()
    assert mode.to_dict() == {"use_smooth_quant": False, "use_weight_only": True, "weight_only_precision": "int4"}
    mode = QuantMode.from_descriptor(QuantModeDescriptor(True, True, per_token=True, per_channel=True, use_fa_quant=True))
    assert mode.contains_per_channel_scale() and mode.contains_fa_quantization() and mode.contains_weight_quantization()
    assert mode.to_dict() == {"use_smooth_quant": True, "use_weight_only": False, "weight_only_precision": "int4"}
    assert copy.deepcopy(mode) is mode and QuantMode(F.INT8_WEIGHTS).check_weight_int8_only()
    for wrong in (dict(quantize_activations=True), dict(per_token=True), dict(quantize_weights=True, per_channel=True)):
        with pytest.raises(ParametersInvalid, match=r"^\[MIE06E000001\] Parameters invalid\. \[quant_mode\]"):
            QuantMode.from_descriptor(QuantModeDescriptor(**wrong))


def test_configurations_and_dictionaries():
    config = QuantConfig(quant_algo="w8a8", exclude_layers=["a"], quantized_layers={"b": {"quant_algo": "W8A16"}})
    assert config.layer_quantization_mode["b"].check_weight_int8_only() and config.quant_algorithms_list == [QuantAlgorithm.W8A16]
    assert QuantConfig.parse_from_dict(config.serialize_to_dict()) == config
    assert QuantConfig("path", "W8A8").layer_quantization_mode.flag == BOTH and QuantConfig().quant_algorithms_list == []
    layers = LayerQuantConfig.parse_from_dict({"quant_algo": "W8A8", "quantized_layers": {"b": {"quant_algo": "W8A16", "exclude_layers": ("c",)}}})
    assert type(layers.quantized_layers["b"]) is QuantConfig and layers.auto_quant_mode["b"].flag == F.INT8_WEIGHTS
    written = layers.serialize_to_dict()
    assert written["quant_algo"] == "W8A8" and written["quantized_layers"]["b"]["quant_algo"] == "W8A16"
    assert "exclude_layers" not in written["quantized_layers"]["b"]
    assert LayerQuantConfig().layer_quantization_mode == {} == LayerQuantConfig(quantized_layers={}).layer_quantization_mode
    policy = TimestepPolicyConfig()
    online = OnlineQuantConfig("W4A4_MXFP4", {"a.*": "W16A16"}, "attn", "FP8_DYNAMIC", policy)
    assert online.serialize_to_dict() == {"quant_type": "W4A4_MXFP4", "fallback_layers": {"a.*": "W16A16"}, "fa_quant_type": "FP8_DYNAMIC",
                                          "fa_layers": ["attn"], "timestep_config": policy}
    assert OnlineQuantConfig.parse_from_dict(online.serialize_to_dict()) == online
    with pytest.raises(ModelInitError):
        LayerQuantConfig(quantized_layers={"a": 1})


def test_steps_that_are_none():
    policy = TimestepPolicyConfig()
    for steps in ("12", [1, "2"], 1.5, None):
        with pytest.raises(TypeError):
            policy.register(steps, "static")
    with pytest.raises(TypeError):
        policy.register(1, 123)
    with pytest.raises(ParametersInvalid, match="step must be a whole number"):
        policy.get_strategy("1")
    for wrong in (1.5, "1", True, -1):
        with pytest.raises(ParametersInvalid, match="cur_timestep must be a whole number"):
            TimestepManager.set_timestep_idx(wrong)
    with pytest.raises(ParametersInvalid, match="t_idx must be a whole number from 1 on"):
        TimestepManager.set_timestep_idx_max(0)


class Layer(nn.Module):
    def __init__(self, size, *, scale=1.0, unkept=None):
        super().__init__()
        self.size, self.scale = size, scale


class Wide(Layer):
    def __init__(self, size, width):
        super().__init__(size)
        self.width = width


def test_loaders_tools(monkeypatch):
    assert extract_constructor_args(Wide(1, 2)) == {"size": 1, "width": 2} and extract_constructor_args(Wide(1, 2), Layer) == {"size": 1}
    assert replace_rank_suffix("a/b_c.json") == ("a/b_c.json", "b_c.json", -1) and replace_rank_suffix("7.json") == ("7.json", "7.json", -1)
    with pytest.raises(ConfigError, match=r"^\[MIE06E000002\] .*b_0.json is of one rank"):
        replace_rank_suffix("a/b_0.json")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 12)
    assert replace_rank_suffix("a/b_0.json") == ("a/b_12.json", "b_12.json", 12)

    class File(dict):
        get_tensor = dict.__getitem__

    assert get_quant_weight(File(a=1), "a") == 1
    with pytest.raises(ParametersInvalid, match=r"Critical parameter missing: b\."):
        get_quant_weight(File(a=1), "b")


def test_patterns_and_rotations():
    u = quantization_utils
    assert u.match_layer_patterns("blocks.1.attn", ("x", "blocks.{0,1}.*")) and not u.match_layer_patterns("blocks.2", None)
    assert u.match_layer_config("a.b", {"a.*": 1, "a.b": 2}) == 2 and u.match_layer_config("a.c", {"a.*": 1}) == 1 and u.match_layer_config("c", None) is None
    assert u.match_fa_layer("x", Layer(1), ["La{yer,ke}"]) and u.match_fa_layer("x", Layer(1), [f"{__name__}.*"]) and not u.match_fa_layer("x", Layer(1), ["y"])
    rotation = u.create_online_hadamard_rot(16, torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16, dtype=torch.float64), atol=1e-6, rtol=0)
    attention = Layer(1)
    with pytest.raises(ParametersInvalid, match="a: the size of its heads is unknown"):
        u.build_online_fa_rot_weights("a", attention)
    attention.head_dim = 16
    weights = u.build_online_fa_rot_weights("a", attention, torch.float64)
    assert set(weights.keys()) == {"a.q_rot", "a.k_rot"} and torch.equal(weights.get_tensor("a.k_rot"), rotation)
    assert u.get_mxfp4_quant_kwargs(QuantConfig()) == {} == u.get_mxfp4_quant_kwargs()
    with pytest.raises(ParametersInvalid, match="power of two"):
        u.create_online_hadamard_rot(12)


def test_codes_and_the_rest():
    codes = {ParametersInvalid: "[MIE06E000001] Parameters invalid. x", ConfigError: "[MIE06E000002] Config parameter err. x",
             TorchError: "[MIE06E000003] Torch exec err. x", ModelInitError: "[MIE06E000004] Model init err. x",
             ModelExecError: "[MIE06E000005] Model exec err. x"}
    for kind, text in codes.items():
        assert str(kind("x")) == text == kind("x").message
    assert logger.name == "mindiesd" and get_npu_device() is NPUDevice.UNDEFINED and not is_a5_device()
    with pytest.raises(ParametersInvalid, match="approximate must be none, tanh or fast, got 'test'"):
        GELU(approximate="test")(torch.ones(2))
