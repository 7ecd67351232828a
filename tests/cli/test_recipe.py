"""aerogel quantize --recipe: msmodelslim's YAML, on a diffusers model, and what is refused."""
import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

INT8 = """qconfig:
  act: {scope: per_token, dtype: int8, symmetric: True, method: minmax}
  weight: {scope: per_channel, dtype: int8, symmetric: True, method: minmax}"""
SHIPPED = """apiversion: multimodal_sd_modelslim_v1
metadata:
  config_id: wan2_2_w4a4f8_mxfp_t2v
  score: 90
  verified_tags:
    Wan2.2-T2V-A14B:
      - - MindIE-SD
        - Atlas_350
  label: {w_bit: 4, a_bit: 4, is_sparse: False, fa_quant: True, fa_bit: 8}

low: &low
  - "*"
low_except: &low_except
  - "*blocks.0.*"
  - "*blocks.1.*"
low_config: &low_config
  act: {scope: "per_block", dtype: "mxfp4", symmetric: True, method: "minmax"}
  weight:
    scope: "per_block"
    dtype: "mxfp4"
    symmetric: True
    method: "ceil_x"
    ext: {
      enable_search: True
    }
high_config: &high_config
  act: {scope: "per_block", dtype: "mxfp8", symmetric: True, method: "minmax"}
  weight: {scope: "per_block", dtype: "mxfp8", symmetric: True, method: "mse_round"}

spec:
  process:
    - type: "linear_quant"
      qconfig: *low_config
      include: *low
      exclude: *low_except
    - type: "linear_quant"
      qconfig: *high_config
      include: *low_except
    - type: "online_quarot"
      include:
        - "*.self_attn.*"
    - type: "fa3_quant"
      qconfig: {dtype: "fp8_e4m3", scope: "per_token", symmetric: True, method: "minmax"}
      include: ["*self_attn"]
      exclude: ["blocks.0*"]
  dataset: wan2_2_t2v
  save:
    - type: "mindie_format_saver"
      part_file_size: 0
  multimodal_sd_config:
    dump_config: {enable_dump: False, capture_mode: "args", dump_data_dir: ""}
    inference_config: {size: "1280*720", frame_num: 81, sample_steps: 2, task: "t2v-A14B"}
"""
WITHOUT = ["--without", "fa3_quant", "--without", "online_quarot"]


def recipe(folder, *entries, extra=""):
    """A file with these process entries, each a YAML text."""
    text = "apiversion: multimodal_sd_modelslim_v1\nspec:\n  process:\n"
    for entry in entries:
        text += "    - " + entry.strip().replace("\n", "\n      ") + "\n"
    path = folder / "recipe.yaml"
    path.write_text(text + extra)
    return path


def linear(config=INT8, **keys):
    return "type: linear_quant\n" + config + "".join(f"\n{k}: {json.dumps(v)}" for k, v in keys.items())


def run(aerogel, model, folder, *options):
    done = aerogel("quantize", model, "-o", folder, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def schemes(report):
    return {layer["name"]: layer["scheme"] for layer in report["layers"]}


def refused(aerogel, model, folder, *options):
    done = aerogel("quantize", model, "-o", folder, *options)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and not folder.exists(), done
    return done.stderr


@pytest.fixture
def four_blocks(tmp_path):
    """Weights under diffusers' names; embeddings beside the blocks."""
    generator = torch.Generator().manual_seed(1)
    layers = ["attn1.to_q", "attn1.to_out.0", "attn2.to_k", "ffn.net.0.proj", "ffn.net.2"]
    state = {f"blocks.{i}.{name}.weight": torch.randn(32, 64, generator=generator).bfloat16() for i in range(4) for name in layers}
    state |= {f"blocks.{i}.{name}.bias": torch.randn(32, generator=generator).bfloat16() for i in range(4) for name in layers[::2]}
    state |= {"proj_out.weight": torch.randn(8, 64, generator=generator).bfloat16(), "condition_embedder.time_proj.weight": torch.randn(64, 64).bfloat16()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"attention_head_dim": 16}')
    return tmp_path / "model.safetensors", state


def test_shipped_recipe(aerogel, four_blocks, tmp_path):
    """Two kinds of layers in one file, as the same options layer by layer give them; rotated FP8 attention behind the first block;
    the embeddings stay float."""
    model, state = four_blocks
    (tmp_path / "recipe.yaml").write_text(SHIPPED)
    report = run(aerogel, model, tmp_path / "out", "--recipe", tmp_path / "recipe.yaml")
    assert report["schemes"] == {"W4A4_MXFP4": 10, "W8A8_MXFP8": 10} and report["notes"] == []
    assert all(s == ("W8A8_MXFP8" if n.split(".")[1] in "01" else "W4A4_MXFP4") for n, s in schemes(report).items())
    mixed = load_file(report["weights"])
    description = json.loads(open(report["description"]).read())
    assert report["weights"].endswith("quant_model_weight_w4a4_mxfp4.safetensors") and description["model_quant_type"] == "W4A4_MXFP4"
    run(aerogel, model, tmp_path / "low", "--scheme", "W4A4_MXFP4", "--algorithm", "ceil_x_search")
    run(aerogel, model, tmp_path / "high", "--scheme", "W8A8_MXFP8", "--algorithm", "mse_round")
    low, high = (load_file(next((tmp_path / kind).glob("*.safetensors"))) for kind in ("low", "high"))
    rotations = {f"blocks.{i}.attn1.{part}_rot" for i in (1, 2, 3) for part in "qk"}
    assert mixed.keys() == low.keys() | rotations and torch.equal(mixed["proj_out.weight"], state["proj_out.weight"])
    for name, value in mixed.items():
        kind = "FLOAT" if name.endswith((".bias", "_rot")) else schemes(report).get(name.rpartition(".")[0], "FLOAT")
        assert description[name] == kind
        if name in rotations:
            assert value.dtype == torch.bfloat16 and torch.equal((value.float() @ value.float().T).round(), torch.eye(16))
            continue
        wanted = (high if name.startswith(("blocks.0.", "blocks.1.")) else low)[name]
        assert value.dtype == wanted.dtype and torch.equal(value.view(torch.uint8), wanted.view(torch.uint8)), name
    types = {k: v for k, v in description.items() if k.endswith(".quant_type")}
    assert types == {f"blocks.{i}.attn1.quant_type": "FP8_DYNAMIC" for i in (1, 2, 3)}


def test_entries_left_out(aerogel, four_blocks, tmp_path):
    (tmp_path / "recipe.yaml").write_text(SHIPPED)
    report = run(aerogel, four_blocks[0], tmp_path / "out", "--recipe", tmp_path / "recipe.yaml", *WITHOUT)
    assert report["notes"] == ["online_quarot (spec.process[2]) is left out", "fa3_quant (spec.process[3]) is left out"]
    assert not any("rot" in k or "quant_type" in k for k in json.loads(open(report["description"]).read()) if k != "model_quant_type")


def test_mixed_files_load(aerogel, build, tiny_pipeline, tmp_path):
    """The model of the pipeline takes a file of two schemes with quantized attention, and inspect sees them."""
    (tmp_path / "recipe.yaml").write_text(SHIPPED.replace('  - "*blocks.1.*"\n', ""))
    report = run(aerogel, tiny_pipeline, tmp_path / "out", "--recipe", tmp_path / "recipe.yaml")
    done = subprocess.run([build / "tests/quantize_model", tiny_pipeline / "transformer", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ")[:2] for line in done.stdout.splitlines())
    assert {k: v for k, v in lines.items() if v.startswith("W")} == schemes(report)
    assert set(schemes(report).values()) == {"W8A8_MXFP8", "W4A4_MXFP4"} and lines["blocks.1.attn1"] == "FP8_DYNAMIC"
    inspected = json.loads(aerogel("inspect", tmp_path / "out", "--json").stdout)
    assert inspected["problems"] == [] and inspected["schemes"] == report["schemes"]


ATTENTION = [
    ("qconfig: {dtype: mxfp4, scope: per_block, symmetric: True, method: minmax}", "MXFP4_DYNAMIC"),
    ("qconfig: {dtype: mxfp8, scope: per_block}", "MXFP8_DYNAMIC"),
    ("qconfig: {dtype: int8, scope: per_token}", "INT8_DYNAMIC"),
    ("details:\n  fa_q: {dtype: mxfp4, scope: per_block}\n  fa_k: {dtype: mxfp4, scope: per_block}\n  fa_v: {dtype: mxfp4, scope: per_block}", "MXFP4_DYNAMIC"),
]


@pytest.mark.parametrize("config,kind", ATTENTION)
def test_attention(aerogel, four_blocks, tmp_path, config, kind):
    """The first entry counts; cross-attention and excluded modules stay float; without online_quarot nothing is rotated."""
    entries = [linear(), f"type: fa3_quant\n{config}\ninclude: ['blocks.{{0,1}}.self_attn']",
               "type: fa3_quant\nqconfig: {dtype: int8, scope: per_token}\nexclude: ['*.2.attn1']"]
    report = run(aerogel, four_blocks[0], tmp_path / "out", "--recipe", recipe(tmp_path, *entries))
    description = json.loads(open(report["description"]).read())
    types = {k.removesuffix(".quant_type"): v for k, v in description.items() if k.endswith(".quant_type")}
    assert types == {"blocks.0.attn1": kind, "blocks.1.attn1": kind, "blocks.3.attn1": "INT8_DYNAMIC"}
    assert not any(k.endswith("_rot") for k in description)


def test_calibrated_attention(aerogel, tiny_pipeline, tmp_path):
    """fa3_quant without a qconfig: int8 with a scale per head, measured on captions."""
    (tmp_path / "c.txt").write_text("red circle moves left\n")
    path = recipe(tmp_path, linear(), "type: fa3_quant\ninclude: ['blocks.1.*']")
    report = run(aerogel, tiny_pipeline, tmp_path / "out", "--recipe", path, "--captions", tmp_path / "c.txt")
    run(aerogel, tiny_pipeline, tmp_path / "flags", "--scheme", "W8A8_DYNAMIC", "--fa", "FAQUANT", "--fa-layers", "blocks.1.attn1", "--captions", tmp_path / "c.txt")
    for name in sorted(p.name for p in (tmp_path / "flags").iterdir()):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "flags" / name).read_bytes()
    assert load_file(report["weights"])["blocks.1.attn1.fa_q.scale"].shape == (2, 1)


def test_smoothing_and_gptq(aerogel, tiny_pipeline, tmp_path):
    """With recorded inputs: iter_smooth prepares its layers, gptq chooses weights, as the options of the command do."""
    (tmp_path / "c.txt").write_text("red circle moves left\n")
    captions = ["--captions", tmp_path / "c.txt"]
    gptq = INT8.replace("method: minmax}", "method: gptq}").replace("gptq", "minmax", 1)
    path = recipe(tmp_path, "type: iter_smooth\nalpha: 0.9\ninclude: ['*.ffn.*']", linear(gptq))
    report = run(aerogel, tiny_pipeline, tmp_path / "out", "--recipe", path, *captions)
    written = load_file(report["weights"])
    for flags, kinds in ((["--smooth", "iter_smooth"], (".ffn.",)), ([], (".attn1.", ".attn2."))):
        run(aerogel, tiny_pipeline, tmp_path / "flags", "--scheme", "W8A8_DYNAMIC", "--algorithm", "gptq", *flags, *captions)
        wanted = load_file(tmp_path / "flags/quant_model_weight_w8a8_dynamic.safetensors")
        names = [k for k in wanted if any(kind in k for kind in kinds)]
        assert names and all(torch.equal(written[k], wanted[k]) for k in names)
    assert sum(k.endswith(".div.mul_scale") for k in written) == 4


def test_original_names(aerogel, four_blocks, tmp_path):
    """Patterns of recipes speak of the original code's names; diffusers' names work as well."""
    model, _ = four_blocks
    entry = linear(exclude=["*ffn.2*", "*.self_attn.q", "blocks.3.attn2.to_k", "blocks.[01].*", "blocks.2.{ffn.0,cross_attn.*}"])
    report = run(aerogel, model, tmp_path / "out", "--recipe", recipe(tmp_path, entry))
    assert sorted(schemes(report)) == ["blocks.2.attn1.to_out.0", "blocks.3.attn1.to_out.0", "blocks.3.ffn.net.0.proj"]
    assert set(schemes(report).values()) == {"W8A8_DYNAMIC"} and report["notes"] == []


def test_the_first_entry_counts(aerogel, four_blocks, tmp_path):
    model, _ = four_blocks
    mxfp8 = INT8.replace("per_token, dtype: int8", "per_block, dtype: mxfp8").replace("per_channel, dtype: int8", "per_block, dtype: mxfp8")
    path = recipe(tmp_path, linear(include=["*.ffn.*", "*nothing*"]), linear(mxfp8))
    report = run(aerogel, model, tmp_path / "out", "--recipe", path)
    assert all(s == ("W8A8_DYNAMIC" if ".ffn." in n else "W8A8_MXFP8") for n, s in schemes(report).items())
    assert report["notes"] == ["spec.process[0].include '*nothing*' matches no layer"]


def test_low_rank_branches(aerogel, four_blocks, tmp_path):
    """svd_res gives its layers a branch, if it stands in front of the entry that quantizes them."""
    model, _ = four_blocks
    mxfp4 = INT8.replace("per_token, dtype: int8", "per_block, dtype: mxfp4").replace("per_channel, dtype: int8", "per_block, dtype: mxfp4")
    path = recipe(tmp_path, "type: svd_res\nrank: 4\ninclude: ['blocks.0.*', '*.ffn.2']\nexclude: ['*self_attn*']", linear(mxfp4), "type: svd_res")
    report = run(aerogel, model, tmp_path / "out", "--recipe", path)
    assert report["notes"] == ["spec.process[2] has no effect: earlier entries take all its layers"]
    for name, scheme in schemes(report).items():
        branch = (name.startswith("blocks.0.") or name.endswith("ffn.net.2")) and "attn1" not in name
        assert scheme == ("W4A4_MXFP4_SVD" if branch else "W4A4_MXFP4"), name
    written = load_file(report["weights"])
    assert written["blocks.0.ffn.net.2.svd_lowrank_l1"].shape == (4, 64) and written["blocks.3.ffn.net.2.svd_lowrank_l2"].shape == (32, 4)
    assert sum(k.endswith("svd_lowrank_l1") for k in written) == 6
    run(aerogel, model, tmp_path / "one", "--scheme", "W4A4_MXFP4", "--low-rank", 4)
    other = load_file(tmp_path / "one/quant_model_weight_w4a4_mxfp4_svd.safetensors")
    assert all(torch.equal(written[k], other[k]) for k in written if k.startswith("blocks.0.ffn."))


KINDS = [
    ("per_token", "int8", "per_channel", "int8", "ssz", "", "W8A8_DYNAMIC", "ssz"),
    ("per_block", "mxfp8", "per_block", "mxfp8", "minmax", "", "W8A8_MXFP8", "minmax"),
    ("per_block", "mxfp8", "per_block", "mxfp4", "fouroversix", "", "W4A8_MXFP", "fouroversix"),
    ("per_block", "mxfp4", "per_block", "mxfp4", "ceil_x", "", "W4A4_MXFP4", "ceil_x"),
    ("dual_scale", "mxfp4", "dual_scale", "mxfp4", "dualscale", ", ext: {dual_block_size: 512}", "W4A4_MXFP4_DUALSCALE", "minmax"),
    ("per_token", "int8", "per_group", "int4", "minmax", ", ext: {group_size: 32}", "W4A8", "minmax --group-size 32"),
    ("per_token", "int4", "per_channel", "int4", "minmax", "", "W4A4_DYNAMIC", "minmax --group-size 0"),
    ("per_token", "fp8_e4m3", "per_channel", "fp8_e4m3", "minmax", "", "WFP8AFP8_DYNAMIC", "minmax"),
    ("", "float", "per_group", "int8", "minmax", ", ext: {group_size: 64}", "W8A16", "minmax --group-size 64"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[6])
def test_every_combination(aerogel, four_blocks, tmp_path, kind):
    """A recipe of one entry writes what --scheme and --algorithm write."""
    model, _ = four_blocks
    act_scope, act, scope, dtype, method, ext, scheme, algorithm = kind
    side = "{dtype: float}" if act == "float" else f"{{scope: {act_scope}, dtype: {act}, symmetric: True, method: minmax}}"
    config = f"qconfig:\n  act: {side}\n  weight: {{scope: {scope}, dtype: {dtype}, symmetric: True, method: {method}{ext}}}"
    report = run(aerogel, model, tmp_path / "a", "--recipe", recipe(tmp_path, linear(config)))
    assert set(schemes(report).values()) == {scheme}
    run(aerogel, model, tmp_path / "b", "--scheme", scheme, "--algorithm", *algorithm.split())
    for name in sorted(p.name for p in (tmp_path / "b").iterdir()):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_static(aerogel, tiny_pipeline, tmp_path):
    """Static activations: the mean range, with an offset, from the calibration that the command line gives."""
    config = INT8.replace("per_token, dtype: int8, symmetric: True, method: minmax", "per_tensor, dtype: int8, symmetric: False, method: minmax, ext: {aggregation_type: mean}")
    path = recipe(tmp_path, linear(config))
    assert "red" in refused(aerogel, tiny_pipeline, tmp_path / "out", "--recipe", path)  # the built-in captions do not fit
    (tmp_path / "c.txt").write_text("red circle moves left\n")
    report = run(aerogel, tiny_pipeline, tmp_path / "out", "--recipe", path, "--captions", tmp_path / "c.txt")
    assert set(schemes(report).values()) == {"W8A8"} and report["calibration"]["captions"] == 1


REFUSED = [
    (linear() + "\nincldue: []", "spec.process[0] has the unknown key 'incldue', did you mean 'include'?; there are: type, qconfig, include, exclude"),
    (linear(INT8.replace("scope: per_token", "scpoe: per_token")), "spec.process[0].qconfig.act has the unknown key 'scpoe', did you mean 'scope'?"),
    (linear(INT8.replace("per_token", "per_tokn")), "qconfig.act.scope must be one of per_tensor"),
    (linear(INT8.replace("per_token", "per_tokn")), "got 'per_tokn', did you mean 'per_token'?"),
    (linear(INT8.replace("True", "maybe", 1)), "qconfig.act.symmetric must be True or False, got 'maybe'"),
    (linear(INT8.replace("True", "False", 1)), "dynamic activations are symmetric: set True"),
    (linear(INT8.replace("per_channel", "per_block")), "activations int8 per_token with weights int8 per_block are not supported; supported are (act + weight): int8 per_tensor + int8 per_channel"),
    (linear(INT8.replace("method: minmax}", "method: histogram}").replace("histogram", "minmax", 1)), "histogram of weights is not supported in recipes: use minmax or ssz"),
    (linear(INT8.replace("per_token", "per_tensor")), "activations with one calibrated scale have an offset here: set symmetric: False"),
    (linear(include="*"), "spec.process[0].include must be a list"),
    ("type: linear_qant\n" + INT8, "spec.process[0].type must be one of linear_quant, svd_res, iter_smooth, online_quarot"),
    ("type: linear_quant", "spec.process[0] must have the key 'qconfig', it has none"),
    ("type: online_quarot\nblok_size: 3", "has the unknown key 'blok_size', did you mean 'block_size'?"),
    ("type: online_quarot\nblock_size: 32", "spec.process[0].block_size must be -1: whole heads are rotated"),
    ("type: fa3_quant\nqconfig: {dtype: int8, scop: per_head}", "has the unknown key 'scop', did you mean 'scope'?"),
    ("type: fa3_quant\nqconfig: {dtype: int8, scope: per_block}", "attention in int8 per_block is not supported; supported are: fp8_e4m3 per_token, mxfp8 per_block"),
    ("type: fa3_quant\nqconfig: {dtype: int8, scope: per_head}\ndetails: {}", "has both qconfig and details: give one"),
    ("type: svd_res\nrank: 0\n", "spec.process[0].rank must be positive"),
    ("type: svd_res\nrank: 32", "spec has no linear_quant entry under process"),
    ("type: iter_smooth\nalpha: 0.5", "spec.process[0].alpha must be 0.9, the default"),
    ("type: iter_smooth\nenable_subgraph_type: [norm-linar]", "must be one of norm-linear, linear-linear, ov, up-down, got 'norm-linar', did you mean 'norm-linear'?"),
    ("type: smooth_quant", "smooth_quant is not supported: use iter_smooth (--without smooth_quant leaves such entries out)"),
    ("type: autoround_quant", "autoround_quant is not supported: use linear_quant with the weight method ssz"),
]


@pytest.mark.parametrize("entry,message", REFUSED)
def test_refused_entries(aerogel, four_blocks, tmp_path, entry, message):
    text = refused(aerogel, four_blocks[0], tmp_path / "out", "--recipe", recipe(tmp_path, entry))
    assert message in text and "recipe.yaml:" in text


FRAMES = [
    ("apiversion: modelslim_v1\nspec: {}\n", "recipe.yaml:1: apiversion must be multimodal_sd_modelslim_v1, got 'modelslim_v1'"),
    ("apiversion: multimodal_sd_modelslim_v1\n", "must have the key 'spec', it has none"),
    ("apiversion: multimodal_sd_modelslim_v1\nspce: {process: []}\nspec: {process: []}\n", "has the unknown key 'spce', did you mean 'spec'?"),
    ("apiversion: multimodal_sd_modelslim_v1\nspec: {process: []}\n", "spec has no linear_quant entry under process"),
    ("apiversion: multimodal_sd_modelslim_v1\nspec: {proces: []}\n", "spec has the unknown key 'proces', did you mean 'process'?"),
    ("apiversion: multimodal_sd_modelslim_v1\nmetadata: {skore: 1}\nspec: {process: []}\n", "metadata has the unknown key 'skore', did you mean 'score'?"),
    ("apiversion: multimodal_sd_modelslim_v1\nspec: {process: [], save: [{type: ascendv1_saver}]}\n", "save[0].type must be mindie_format_saver, got 'ascendv1_saver'"),
    ("apiversion: multimodal_sd_modelslim_v1\nspec: {process: [], save: [{type: mindie_format_saver, part_file_size: 4}]}\n", "part_file_size must be 0"),
    ("apiversion: multimodal_sd_modelslim_v1\nspec: {process: [], per_expert: {}}\n", "per_expert is not supported"),
    ("apiversion: multimodal_sd_modelslim_v1\nspec: {a: 1, a: 2}\n", "spec has the key 'a' twice"),
    ("a: [1, 2\n", "not readable as YAML"),
    ("- 1\n", "must be a mapping"),
    ("", "must be a mapping"),
]


@pytest.mark.parametrize("text,message", FRAMES)
def test_refused_files(aerogel, four_blocks, tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    assert message in refused(aerogel, four_blocks[0], tmp_path / "out", "--recipe", tmp_path / "recipe.yaml")


def test_refused_flags(aerogel, four_blocks, tmp_path):
    model, out = four_blocks[0], tmp_path / "out"
    path = recipe(tmp_path, linear(include=["no.such.*"]))
    assert "no entry matches any of the 20 Linear layers" in refused(aerogel, model, out, "--recipe", path)
    fp8 = recipe(tmp_path, linear(), "type: fa3_quant\nqconfig: {dtype: fp8_e4m3, scope: per_token}\ninclude: ['*.2.*']")
    assert "FP8_DYNAMIC of blocks.2.attn1 needs an online_quarot entry that matches it too" in refused(aerogel, model, out, "--recipe", fp8)
    path = recipe(tmp_path, linear(include=["no.such.*"]))
    for flag in (["--scheme", "W8A16"], ["--asymmetric"], ["--fa-layers", "*"]):
        assert refused(aerogel, model, out, "--recipe", path, *flag).rstrip().endswith(f"leave out {flag[0]}")
    assert "--without leaves entries out of a --recipe" in refused(aerogel, model, out, "--scheme", "W8A16", "--without", "svd_res")
    assert "no entry type 'svd_rez', did you mean 'svd_res'?" in refused(aerogel, model, out, "--recipe", path, "--without", "svd_rez")
    assert "/nowhere.yaml" in refused(aerogel, model, out, "--recipe", "/nowhere.yaml")
    assert "--steps says nothing for W8A8_DYNAMIC, which needs no calibration" in refused(aerogel, model, out, "--recipe", recipe(tmp_path, linear()), "--steps", 3)
