"""quantize in memory with OnlineQuantConfig, the attention modules it hangs in, and every name it refuses."""
import copy

import aerogel
import pytest
import torch
from description_files import Model
from mindiesd import OnlineQuantConfig, TimestepManager, TimestepPolicyConfig, quantize
from mindiesd.quantization.layer import FP8RotateQuantFA, MXFP4QuantFA, MXFP8RotateQuantFA
from mindiesd.quantization.mode import NOT_ONLINE, QuantAlgorithm
from mindiesd.utils import ModelInitError, ParametersInvalid
from torch import nn

# First 64 signs of the rotation in msModelSlim's files: the low bits of mt19937(1234).
SIGNS = "1101000111110010000000001011001001010001110110101011110101100100"


def relative(a, b):
    return float((a - b).norm() / b.norm())


def schemes(model):
    return {name: m.scheme for name, m in model.named_modules() if hasattr(m, "scheme")}


RUN = sorted(set(QuantAlgorithm) - set(NOT_ONLINE))


@pytest.mark.parametrize("algo", RUN)
@torch.no_grad()
def test_every_algorithm_without_data_runs(algo):
    model, x = Model(), torch.randn(2, 5, 24)
    exact = model(x)
    kept = {"embed": "W16A16"} if algo == "W4A4_MXFP4_SVD" else {}  # narrower than the rank of 32
    assert quantize(model, online_config=OnlineQuantConfig(quant_type=algo, fallback_layers=kept)) is model
    assert len(schemes(model)) == 13 - len(kept)  # upstream takes every nn.Linear, embeddings too
    assert 1e-4 < relative(model(x), exact) < (0.05 if "8" in algo.value[:2] or algo == "INT8" else 0.5)


@pytest.mark.parametrize("algo", sorted(NOT_ONLINE))
def test_every_other_one_is_refused_with_what_to_use(algo):
    with pytest.raises(NotImplementedError, match=rf"\[quantize\] {algo} does not run in memory: .*(use|leave|give it as|name the layers)"):
        OnlineQuantConfig(quant_type=algo)


def test_fallbacks_go_by_name_then_by_pattern_of_the_whole_name():
    model = Model()
    config = OnlineQuantConfig("W8A8_DYNAMIC", fallback_layers={"blocks.*.{up,down}": "W16A16", "blocks.0.down": "W8A8", "embed": "W4A16", "attn": "W16A16"})
    quantize(model, online_config=config)
    found = schemes(model)
    assert found["blocks.0.down"] == "W8A8_DYNAMIC" and found["embed"] == "W4A16" and found["blocks.1.attn.to_q"] == "W8A8_DYNAMIC"
    assert not {"blocks.0.up", "blocks.1.up", "blocks.1.down"} & set(found)


@pytest.mark.parametrize("kind", ["FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC"])
@pytest.mark.parametrize("patterns", ["*attn", ["Attention"], ("description_files.Att*",)])
@torch.no_grad()
def test_attention_in_memory(kind, patterns):
    model, x = Model(), torch.randn(2, 33, 24)
    exact = model(x)
    quantize(model, online_config=OnlineQuantConfig(fa_layers=patterns, fa_quant_type=kind, fallback_layers={"blocks.1.attn": "W16A16"}))
    attn = model.blocks[0]["attn"]
    assert hasattr(attn, "fa_quant") and not hasattr(model.blocks[1]["attn"], "fa_quant")
    assert relative(model(x), exact) < (0.2 if kind == "MXFP4_DYNAMIC" else 0.06)
    rotation = attn.fa_quant.q_rot
    hadamard = torch.ones(1, 1)
    while len(hadamard) < 32:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    signs = torch.tensor([1.0 if bit == "1" else -1.0 for bit in SIGNS[:32]])
    assert torch.equal(rotation, (signs[:, None] * hadamard / 32**0.5).bfloat16().float())  # as files have it
    assert torch.equal(rotation, attn.fa_quant.k_rot)


def test_attention_whose_heads_are_unknown_is_refused_and_nothing_is_exchanged():
    class Unknown(nn.Module):
        def __init__(self, **attributes):
            super().__init__()
            self.q = nn.Linear(48, 48)
            for name, value in attributes.items():
                setattr(self, name, value)

    model = nn.ModuleDict({"a": Unknown()})
    with pytest.raises(ParametersInvalid, match="the size of its heads is unknown"):
        quantize(model, online_config=OnlineQuantConfig(fa_layers="a", fa_quant_type="FP8_DYNAMIC"))
    assert type(model["a"].q) is nn.Linear
    model = quantize(nn.ModuleDict({"a": Unknown(num_heads=2)}), online_config=OnlineQuantConfig(fa_layers="a", fa_quant_type="FP8_DYNAMIC"))
    rotation = model["a"].fa_quant.q_rot  # 24 columns per head: three blocks of eight
    assert rotation[:8, 8:].count_nonzero() == 0 and rotation.count_nonzero() == 3 * 64
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(24), atol=0.01, rtol=0)
    with pytest.raises(ParametersInvalid, match="pattern 'b' matches none of the 1 attention modules"):
        quantize(nn.ModuleDict({"a": nn.Linear(8, 8)}), online_config=OnlineQuantConfig(fa_layers="b", fa_quant_type="FP8_DYNAMIC"))
    for attributes in ({"num_heads": 3}, {"head_dim": 16}, {"inner_dim": 64, "heads": 4}, {"hidden_size": 32, "num_attention_heads": 2}):
        model = quantize(nn.ModuleDict({"a": Unknown(**attributes)}), online_config=OnlineQuantConfig(fa_layers="a", fa_quant_type="FP8_DYNAMIC"))
        assert model["a"].fa_quant.q_rot.shape == (16, 16)


@torch.no_grad()
def test_one_policy_for_linears_and_attention():
    policy = TimestepPolicyConfig()
    policy.register([0], "W4A8")
    policy.register([0], "FP8", "fa")
    model, x = Model(), torch.randn(2, 33, 24)
    exact = model(x)
    quantize(model, online_config=OnlineQuantConfig("W4A4_MXFP4", fa_layers="*attn", fa_quant_type="MXFP4_DYNAMIC", timestep_config=policy))
    outputs = []
    for step in (0, 1):
        TimestepManager.set_timestep_idx(step)
        outputs.append(relative(model(x), exact))
    assert outputs[0] < 0.8 * outputs[1]


@pytest.mark.parametrize("keywords", [dict(quant_type="W9A9"), dict(quant_type=None), dict(fa_quant_type="FP8_DYNAMIC"), dict(timestep_config=1),
                                      dict(fa_quant_type="W8A8", fa_layers="a"), dict(fallback_layers={"a": "x"}), dict(fallback_layers={"a": None}), dict(mxfp4_scale_alg=1.5),
                                      dict(fallback_timesteps=[1]), dict(mxfp4_dst_type_max=None), dict(mxfp4_scale_alg=1), dict(mxfp4_dst_type_max=3)])
def test_config_errors(keywords):
    with pytest.raises(ModelInitError, match=r"^\[MIE06E000004\] Model init err\. \[quantize\]"):
        OnlineQuantConfig(**keywords)


@pytest.mark.parametrize(("kind", "format"), [(FP8RotateQuantFA, "fp8"), (MXFP8RotateQuantFA, "mxfp8"), (MXFP4QuantFA, "mxfp4")])
def test_attention_classes(kind, format):
    rotation = torch.linalg.qr(torch.randn(16, 16))[0]
    module = kind("a.b", {"a.b.q_rot": rotation, "a.b.k_rot": rotation})
    q, k, v = (torch.randn(2, 20, heads, 16) for heads in (4, 2, 2))
    o = module(q, k, v, layout="BSND", softmax_scale=0.2, pre_tokens=2147483647, num_key_value_heads=2)
    shared = [t.repeat_interleave(2, 2) for t in (k, v)]
    wanted = aerogel.quantized_attention(q, *shared, format, input_layout="BSND", scale=0.2, rotation=rotation, smooth_k=False)
    assert torch.equal(o, wanted)
    other = module(q, k.transpose(1, 2), v.transpose(1, 2), layout="BSND", layout_kv="BNSD", layout_out="BNSD", softmax_scale=0.2)
    assert torch.equal(other.transpose(1, 2), wanted)
    assert module(*(t.bfloat16().transpose(1, 2) for t in (q, k, v))).dtype == torch.bfloat16
    packed = module.forward(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), torch.tensor([20, 20]), softmax_scale=0.2)
    torch.testing.assert_close(packed.view_as(wanted), wanted)
    with pytest.raises(NotImplementedError, match="attn_mask, sinks: .* use attention_forward with attn_mask"):
        module(q, k, v, layout="BSND", attn_mask=torch.ones(20, 20), sinks=1)
    with pytest.raises(ValueError, match="layout BNSD or BSND"):
        module(q, k, v, layout="BSH")
    with pytest.raises(ValueError, match="heads of q must be a multiple"):
        module(q[:, :, :3], k, v, layout="BSND")
    if kind is MXFP4QuantFA:
        assert kind("a.b", {}).q_rot is None
        by_range = kind("a.b", {}, quant_config=OnlineQuantConfig(mxfp4_scale_alg=2))
        scale = dict(mxfp4_scale_alg=2, mxfp4_dst_type_max=7.25)
        assert torch.equal(by_range(q, *shared, layout="BSND"), aerogel.quantized_attention(q, *shared, "mxfp4", input_layout="BSND", smooth_k=False, **scale))
    else:
        with pytest.raises(ParametersInvalid, match=r"a.b.q_rot is missing"):
            kind("a.b", {})


def test_quantized_models_are_copied_and_moved():
    model = quantize(Model(), online_config=OnlineQuantConfig(fa_layers="*attn", fa_quant_type="MXFP8_DYNAMIC")).bfloat16()
    x = torch.randn(1, 4, 24).bfloat16()
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(model)(x), model(x)) and model(x).dtype == torch.bfloat16


@torch.no_grad()
def test_the_scale_of_mxfp4_reaches_attention_in_memory():
    x, outputs = torch.randn(2, 33, 24), []
    model = Model()
    for algorithm in (None, 0, 2):
        config = OnlineQuantConfig(fa_layers="*attn", fa_quant_type="MXFP4_DYNAMIC", mxfp4_scale_alg=algorithm)
        outputs.append(quantize(copy.deepcopy(model), online_config=config)(x))
    assert torch.equal(*outputs[:2]) and not torch.equal(*outputs[1:])
