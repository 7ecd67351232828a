"""One plan for both fronts: C++ quantize(model, ...) and aerogel.quantize decide the same of every module, and what they make computes the
same bits. The models are loadable by diffusers and natively."""
import json
import subprocess

import aerogel as package
import pytest
import torch
from aerogel.attention.module import FILE_TYPES
from format_reference import quantize_model, write_pair, write_stats
from safetensors.torch import load_file, save_file
from small_model import LAYERS, load

HEADS, D = 2, 32
SELF = ["blocks.0.attn1", "blocks.1.attn1"]
FILE_FORMATS = {**FILE_TYPES, "FAQUANT": "int8", "FAKQUANT": "int8", "INT8": "int8"}
POLICY = {"default_strategy": "static", "fa_default_strategy": "FP8",
          "register": [{"step_range": [1], "strategy": "dynamic", "target": "linear"}, {"step_range": 1, "strategy": "W4A8"},
                       {"step_range": 1, "strategy": "MXFP4", "target": "fa"}, {"step_range": [2], "strategy": "FLOAT", "target": "fa"}]}


@pytest.fixture(autouse=True)
def unset():
    yield
    package.TimestepManager.set_timestep_idx(None)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(3)
    randn = lambda *shape: torch.randn(*shape, generator=generator)
    rows = {f"x.{k}": randn(7, k) for k in (24, 32, 64, 96)}
    heads = {name: randn(1, 300, HEADS, D) for name in "qkv"}
    return rows | heads | {"hidden_states": randn(1, 4, 2, 8, 8), "timestep": torch.tensor([500.0]), "encoder_hidden_states": randn(1, 5, 24)}


def policy_of(fields):
    policy = package.TimestepPolicyConfig(**{k: v for k, v in fields.items() if k != "register"})
    for entry in fields.get("register", []):
        policy.register(entry["step_range"], entry["strategy"], entry.get("target", "w4a4_linear"))
    return policy


class Fronts:
    def __init__(self, program, folder, work, inputs):
        self.program, self.folder, self.work, self.inputs = program, folder, work, inputs
        save_file(inputs, work / "in.safetensors")

    def native(self, description=None, online=None, policy=None, step=None):
        case = {"description": str(description)} if description else {"online": {k: v for k, v in online.items() if v is not None}}
        if policy:
            (self.work / "policy.json").write_text(json.dumps(policy))
            case["policy"] = str(self.work / "policy.json")
        (self.work / "case.json").write_text(json.dumps(case if step is None else {**case, "step": step}))
        done = subprocess.run([self.program, self.folder, self.work / "case.json", self.work / "in.safetensors", self.work / "out.safetensors"],
                              capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip()
        rows = [line.split("\t") for line in done.stdout.splitlines()]
        return {name: (scheme, why, int(group)) for name, scheme, why, group in rows}, load_file(self.work / "out.safetensors")

    @torch.no_grad()
    def torch(self, description=None, online=None, policy=None, step=None):
        model = load(self.folder)
        told = policy_of(policy) if policy else None
        package.TimestepManager.set_timestep_idx(step)
        online = online and dict(online)
        choice = {name: online.pop(name) for name in ("include", "exclude") if online and name in online}
        try:
            if description:
                report = package.quantize(model, description, timestep_config=told)
            else:
                report = package.quantize(model, online_config=package.OnlineQuantConfig(**online, timestep_config=told), **choice)
        except (ValueError, NotImplementedError) as error:
            assert not any(isinstance(m, package.QuantizedLinear) for m in model.modules())
            return str(error)
        made = {layer.name: (layer.scheme, layer.why, layer.group_size) for layer in report.layers}
        made |= {name: ("FLOAT", why, 0) for name, why in report.attention_in_float.items()}
        made |= {name: (format, "", 0) for name, format in report.attention.items()}
        return made, self.computed(model, report)

    def computed(self, model, report):
        out = {}
        for name in report.quantized:
            layer = model.get_submodule(name)
            out[f"linear.{name}"] = layer(self.inputs[f"x.{layer.in_features}"])
        for name in report.attention:
            module = model.get_submodule(name)
            quantized = getattr(module, "fa_quant", None) or module.fa3
            out[f"attention.{name}"] = quantized(*(self.inputs[n] for n in "qkv"), layout="BSND")
        out["model"] = model(*(self.inputs[n] for n in ("hidden_states", "timestep", "encoder_hidden_states")), return_dict=False)[0]
        return out

    def compare(self, **case):
        """The decisions of both fronts, equal, and their outputs, equal to the bit but for the models' float layers."""
        ours, theirs = self.native(**case), self.torch(**case)
        assert isinstance(ours, tuple) and isinstance(theirs, tuple), (ours, theirs)
        (decided, bits), (told, results) = ours, theirs
        decided = {name: (FILE_FORMATS.get(scheme, scheme), *rest) for name, (scheme, *rest) in decided.items()}
        assert decided == told
        assert bits.keys() == results.keys()
        for name in bits.keys() - {"model"}:
            assert torch.equal(bits[name], results[name]), name
        difference = float((bits["model"] - results["model"]).norm() / bits["model"].norm())
        assert difference < 5e-3, difference  # a last bit in a float layer turns over codes of four bits
        return told, bits

    def refuse(self, message, **case):
        ours, theirs = self.native(**case), self.torch(**case)
        assert isinstance(ours, str) and ours == theirs and message in ours, (ours, theirs)


@pytest.fixture
def fronts(build, float_model, tmp_path, inputs):
    return lambda: Fronts(build / "tests/model_plan_run", float_model("f32")[0], tmp_path, inputs)


IN_MEMORY = [name for name, _, calibrated in package.schemes() if not calibrated]


@pytest.mark.parametrize("scheme", [*IN_MEMORY, "W4A4_MXFP4_SVD", "int8", "W8A8_DYNAMIC_ROTATED"])
def test_schemes_in_memory(fronts, scheme):
    told, _ = fronts().compare(online={"quant_type": scheme})
    assert [name for name, (scheme, *_) in told.items() if scheme != "FLOAT"] == LAYERS
    assert told["proj_out"][1] == "outside of the repeated blocks; include= chooses it"


@pytest.mark.parametrize("step", [None, 0, 1, 2])
@pytest.mark.parametrize("kind", FILE_TYPES)
@pytest.mark.parametrize("scheme", ["W4A4_DYNAMIC", "W4A4_MXFP4"])
def test_attention_and_policy_in_memory(fronts, scheme, kind, step):
    online = {"quant_type": scheme, "fa_quant_type": kind, "fa_layers": ["*.attn1", "blocks.1.attn2"]}
    told, _ = fronts().compare(online=online, policy=POLICY, step=step)
    assert [name for name, (format, *_) in told.items() if format == FILE_TYPES[kind]] == ["blocks.0.attn1", "blocks.1.attn1", "blocks.1.attn2"]


@pytest.mark.parametrize("online", [
    {"include": ["*.ffn.*", "proj_out"], "exclude": ["blocks.1.*"]}, {"exclude": ["*.attn2.*", "proj_out"]}, {"include": ["*"], "exclude": ["*time_embedder*"]},
    {"fallback_layers": {"blocks.0.attn1.*": "W16A16", "blocks.0.*": "W4A16", "*.ffn.net.2": "W8A8"}},
    {"quant_type": "W4A16", "group_size": 32, "fallback_layers": {"*.attn2.*": "W4A16"}}, {"quant_type": "W4A8", "group_size": 0},
    {"fallback_layers": {"blocks.0.*": "W16A16"}, "fa_quant_type": "FP8_DYNAMIC", "fa_layers": ["*.attn?"]}])
def test_choices_in_memory(fronts, online):
    fronts().compare(online={"quant_type": "W8A8_DYNAMIC", **online})


@pytest.mark.parametrize("message,online", [
    ("matches none of the 26 Linear layers", {"include": ["blocks.*.attn3.*"]}), ("did you mean 'blocks.0.attn1.to_q'?", {"exclude": ["blocks.0.attn1.to_x"]}),
    ("no layer is left to quantize", {"include": ["*.ffn.*"], "exclude": ["*"]}), ("no layer is left to quantize", {"exclude": ["*"]}),
    ("matches none of the 26 Linear layers", {"fallback_layers": {"blocks.0": "W16A16"}}), ("W8A8 needs calibrated activation ranges", {"quant_type": "W8A8"})])
def test_refusals_in_memory(fronts, message, online):
    fronts().refuse(message, online={"quant_type": "W8A16", **online})


def rotations(modules):
    """One for q and k of each module, which leaves the scores as they are."""
    generator = torch.Generator().manual_seed(5)
    made = {m: torch.linalg.qr(torch.randn(D, D, generator=generator))[0].bfloat16().contiguous() for m in modules}
    return {f"{m}.{part}_rot": rotation.clone() for m, rotation in made.items() for part in "qk"}


def scales(module, prefix="fa"):
    generator = torch.Generator().manual_seed(6)
    return {f"{module}.{prefix}_{part}.scale": 0.01 + 0.02 * torch.rand(HEADS, 1, generator=generator) for part in "qkv"}


@pytest.mark.parametrize("scheme, layout", [("W8A16", "v0"), ("W8A8_DYNAMIC", "v0"), ("W8A8", "v0"), ("W8A8_TIMESTEP", "v0"), ("W8A8_DYNAMIC", "v1"), ("W8A8", "v1")])
def test_files_of_both_exporters(fronts, float_model, tmp_path, scheme, layout):
    _, state = float_model("f32")
    layers = LAYERS[:-3]
    stats = write_stats(tmp_path / "s.safetensors", layers, steps=3)
    tensors, types = quantize_model(state, layers, scheme, stats, layout)
    del types[f"{LAYERS[-1]}.weight"]
    path = write_pair(tmp_path, scheme, tensors, types)
    for step in (0, 1):
        told, _ = fronts().compare(description=path, policy=POLICY, step=step)
    assert told[LAYERS[-1]][1] == "not in the description" and told[LAYERS[-2]][1] == told["proj_out"][1] == "marked FLOAT"


@pytest.mark.parametrize("step", [None, 1, 2])
@pytest.mark.parametrize("policy", [None, POLICY])
def test_mixed_files(fronts, float_model, tmp_path, policy, step):
    """Several schemes, four types of attention and one that is not there, in one description."""
    _, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS[:3], "W8A8_DYNAMIC")
    more, kinds = quantize_model(state, LAYERS[3:6], "W8A16")
    tensors |= {k: more[k] for k, t in kinds.items() if t != "FLOAT"}
    types |= {k: t for k, t in kinds.items() if t != "FLOAT"}
    tensors |= rotations(SELF) | scales("blocks.0.attn2", "fa3")
    types |= {f"{SELF[0]}.quant_type": "FP8_DYNAMIC", f"{SELF[1]}.quant_type": "MXFP4_DYNAMIC", "blocks.0.attn2.quant_type": "INT8",
              "blocks.1.attn2.quant_type": "Q_FP8_DYNAMIC_KV_FP8", **{k: "FAQuant" for k in tensors if ".fa3_" in k}}
    told, _ = fronts().compare(description=write_pair(tmp_path, "W8A16", tensors, types), policy=policy, step=step)
    assert [told[name][0] for name in (*SELF, "blocks.0.attn2", "blocks.1.attn2")] == ["fp8", "mxfp4", "int8", "FLOAT"]
    assert told["blocks.1.attn2"][1] == "Q_FP8_DYNAMIC_KV_FP8 attention is not supported"


@pytest.mark.parametrize("kind", ["FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC", "INT8_DYNAMIC", "FAQUANT"])
def test_attention_types_of_files(fronts, tmp_path, kind):
    if kind == "FAQUANT":
        tensors = {k: t for m in SELF for k, t in scales(m).items()}
        types = {k: "FAQuant" for k in tensors}
    else:
        tensors = rotations(SELF) if kind != "INT8_DYNAMIC" else {"x": torch.ones(1)}
        types = {f"{m}.quant_type": kind for m in SELF} | {k: "FLOAT" for k in tensors}
    told, bits = fronts().compare(description=write_pair(tmp_path, "W8A16", tensors, types))
    assert [told[m] for m in SELF] == [(FILE_FORMATS[kind], "", 0)] * 2
    plain = package.attention(*(fronts().inputs[n] for n in "qkv"), input_layout="BSND")
    assert 0 < float((bits[f"attention.{SELF[0]}"] - plain).norm()) < 0.3 * float(plain.norm())


def test_refused_files(fronts, float_model, tmp_path):
    _, state = float_model("f32")
    tensors, types = quantize_model(state, LAYERS[:1], "W8A16")
    path = write_pair(tmp_path, "W8A16", tensors, {**types, "blocks.0.self_attn.quant_type": "INT8_DYNAMIC"})
    fronts().refuse("the model has no attention 'blocks.0.self_attn', did you mean 'blocks.0.attn1'?", description=path)
    def renamed(values, name):
        own = {k.replace("blocks.0.attn1.to_q", name): v for k, v in values.items() if "blocks.0.attn1.to_q" in k}
        return {k: v for k, v in values.items() if "blocks.0.attn1.to_q" not in k} | own

    path = write_pair(tmp_path, "W8A16", *(renamed(values, "blocks.0.ffn.net.2") for values in (tensors, types)))
    fronts().refuse("'blocks.0.ffn.net.2.weight' must be i8[64,96] for this model, got i8[64,64]", description=path)
    path = write_pair(tmp_path, "W8A16", *(renamed(values, "blocks.0.attn1.to_x") for values in (tensors, types)))
    fronts().refuse("the model has no Linear 'blocks.0.attn1.to_x', did you mean 'blocks.0.attn1.to_", description=path)
