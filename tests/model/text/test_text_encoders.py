"""Our text encoders and what pipelines make of prompts, beside transformers and diffusers: tiny random models of the real
classes, saved by them."""

import html
import json
import re
import shutil
import types

import diffusers
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from text_encoders import Ours, qwen3, qwen25_vl, qwen_tokenizer, relative_error, t5, umt5_tokenizer
from tokenizer_files import texts

BOUND = 1e-5  # of the largest value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text_encoders")


@pytest.fixture(scope="module")
def ours(build, folder):
    process = Ours(build, folder)
    yield process
    process.close()


def saved(model, path, **options):
    model.save_pretrained(path, **options)
    return path


def ids_of(length, vocabulary, seed=0):
    return torch.randint(0, vocabulary, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def their_states(model, ids, real):
    mask = torch.tensor([[1] * real + [0] * (len(ids) - real)])
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), attention_mask=mask, output_hidden_states=True).hidden_states


def same_states(ours, path, model, cases, padding=True):
    vocabulary = model.get_input_embeddings().num_embeddings
    for length, real in cases:
        ids = ids_of(length, vocabulary, seed=length)
        theirs = their_states(model, ids, real)
        layers = list(range(len(theirs)))
        for layer, mine in zip(layers, ours.states(path, ids, real, layers)):
            rows = slice(None) if padding else slice(0, real)
            assert relative_error(mine[:, rows], theirs[layer][:, rows]) < BOUND, (length, real, layer)


LENGTHS = [(1, 1), (7, 7), (33, 33), (130, 130), (37, 5), (64, 63), (9, 1)]


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False, "num_key_value_heads": 6, "attention_bias": True}, {"head_dim": 34, "num_attention_heads": 3, "num_key_value_heads": 1}])
def test_qwen3(ours, folder, changes):
    model = qwen3(**changes)
    path = saved(model, folder / "qwen3")
    same_states(ours, path, model, LENGTHS + [(512, 500)])
    base = saved(model.model, folder / "qwen3_base")  # without the head its names have no prefix
    same_states(ours, base, model.model, [(19, 12)])


def test_linears_have_the_names_of_transformers(ours, folder):
    for model in (qwen3(layers=2), t5(layers=2)):
        path = saved(model, folder / "names")
        stored = sum(tensor.nbytes for name, tensor in load_file(path / "model.safetensors").items() if name != "lm_head.weight")
        assert ours.ask("linears", path, folder / "names.txt") == f"ok {stored}"
        theirs = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
        assert (folder / "names.txt").read_text().splitlines() == [f"{name} FLOAT" for name in theirs]


@pytest.mark.parametrize("case", [("W8A16", 0.03, 8), ("W4A16", 0.4, 4), ("W8A8_DYNAMIC", 0.05, 8)])
def test_quantized_while_they_are_read(ours, build, folder, case):
    """All Linears, and a block's output stays close to the float one: a grid of 2^bits steps over some six deviations of
    the weights has errors of 1.7 / 2^bits deviations, in a handful of products."""
    scheme, bound, bits = case
    quantized = Ours(build, folder, scheme)
    for model in (qwen3(hidden_size=128, intermediate_size=256), t5(d_model=128, d_kv=32, num_heads=4, d_ff=192)):
        path = saved(model, folder / "quantized")
        names = folder / "names.txt"
        assert quantized.ask("linears", path, names).startswith("ok ")
        assert {line.split()[1] for line in names.read_text().splitlines()} == {scheme}
        before, after = (int(process.ask("linears", path, names).split()[1]) for process in (ours, quantized))
        linears = sum(m.weight.nbytes for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head")
        assert after <= before - linears + linears * (bits + 1) / 32  # with the scales
        ids = ids_of(50, 800)
        exact, mine = (process.states(path, ids, 50, [1])[0] for process in (ours, quantized))
        error = ((mine - exact).norm() / exact.norm()).item()
        assert 0 < error < bound
    quantized.close()


@pytest.mark.parametrize("scheme", ["W8A16", "W4A16"])
def test_a_pair_of_files_is_what_is_quantized_while_reading(build, aerogel, folder, scheme):
    for name, model in (("qwen3", qwen3(hidden_size=128, intermediate_size=256)), ("t5", t5(d_model=128, d_kv=32, num_heads=4, d_ff=192))):
        path, pair = saved(model, folder / name), folder / f"{name}_{scheme}"
        done = aerogel("quantize", path, "--scheme", scheme, "-o", pair)
        assert done.returncode == 0, done.stderr
        ids, states = ids_of(20, 800), []
        for source in (scheme, pair):
            process = Ours(build, folder, source)
            states.append(process.states(path, ids, 20, [1, 2]))
            assert process.ask("linears", path, folder / f"names_{len(states)}").startswith("ok ")
            process.close()
        assert all(torch.equal(one, other) for one, other in zip(*states))
        assert (folder / "names_1").read_text() == (folder / "names_2").read_text()


def test_only_the_blocks_asked_for_run(ours, folder):
    model = qwen3()
    path = saved(model, folder / "some")
    ids = ids_of(20, 1700)
    theirs = their_states(model, ids, 20)
    with torch.no_grad():
        model.model.layers[2].self_attn.q_proj.weight.fill_(float("nan"))
    saved(model, path)
    for layer, mine in zip([2, 0, 2], ours.states(path, ids, 20, [2, 0, 2])):
        assert relative_error(mine, theirs[layer]) < BOUND
    assert "the hidden states of layer 3 are not finite" in ours.error("states", path, "1,2", 2, 3, folder / "x.safetensors")


def test_qwen25_vl(ours, folder):
    model = qwen25_vl()
    path = saved(model, folder / "qwen25")
    same_states(ours, path, model, LENGTHS + [(512, 512)])
    # Older files: flat config.json, "mrope", other names.
    config = json.loads((path / "config.json").read_text())
    flat = {**config.pop("text_config"), **config, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "rope_theta": 1e6}
    flat.pop("rope_parameters", None)
    old = folder / "qwen25_old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps(flat))
    tensors = load_file(path / "model.safetensors")
    renamed = {name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): t for name, t in tensors.items()}
    save_file(renamed, old / "model.safetensors")
    same_states(ours, old, model, [(21, 21)])


@pytest.mark.parametrize("kind", ["UMT5", "T5"])
def test_t5(ours, folder, kind):
    model = t5(kind)
    path = saved(model, folder / kind)
    same_states(ours, path, model, LENGTHS + [(512, 512), (512, 200)])
    model = t5(kind, relative_attention_num_buckets=12, relative_attention_max_distance=20, num_heads=1, d_kv=64)
    same_states(ours, saved(model, folder / kind), model, [(70, 70)])


def test_shards_and_bfloat16(ours, folder):
    model = qwen3().to(torch.bfloat16)
    path = saved(model, folder / "shards", max_shard_size="60KB")
    assert (path / "model.safetensors.index.json").exists()
    same_states(ours, path, type(model).from_pretrained(path, dtype=torch.float32), [(23, 20)])


def pipeline(name, folder):
    """A pipeline of diffusers with its tokenizer and text encoder, saved; and how it encodes a prompt."""
    parts = {"scheduler": None, "vae": None, "transformer": None}
    if name in ("WanPipeline", "WanImageToVideoPipeline"):
        if name == "WanImageToVideoPipeline":
            parts |= {"image_encoder": None, "image_processor": None}
        pipe = getattr(diffusers, name)(tokenizer=umt5_tokenizer(folder), text_encoder=t5(layers=2), **parts)
        encode = lambda prompt: pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    elif name == "ZImagePipeline":
        pipe = diffusers.ZImagePipeline(tokenizer=qwen_tokenizer(), text_encoder=qwen3(layers=3), **parts)
        encode = lambda prompt: pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[0][0][None]
    elif name == "Flux2KleinPipeline":
        pipe = diffusers.Flux2KleinPipeline(tokenizer=qwen_tokenizer(), text_encoder=qwen3(layers=28), **parts)
        encode = lambda prompt: pipe.encode_prompt(prompt)[0]
    else:
        pipe = diffusers.QwenImagePipeline(tokenizer=qwen_tokenizer(), text_encoder=qwen25_vl(), **parts)
        encode = lambda prompt: pipe.encode_prompt(prompt, max_sequence_length=512)[0]
    path = folder / name
    pipe.save_pretrained(path)
    return path, encode


PROMPTS = [
    "a cat on a red sofa, raining outside",
    "",
    "  一只猫\n坐在 &amp;amp; &lt;b&gt; 红色的\tsofa &nbsp; caf\u00e9 \u3000",
    "<|im_end|> <think> {braces} {} 👍🏽 </s> &#x1F408;",
    "a very long prompt, with cats & dogs. " * 90,
]


@pytest.mark.parametrize("name", ["WanPipeline", "WanImageToVideoPipeline", "ZImagePipeline", "Flux2KleinPipeline", "QwenImagePipeline"])
def test_prompts_of_pipelines(ours, folder, name, monkeypatch):
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan.is_ftfy_available", lambda: False)
    no_ftfy = types.SimpleNamespace(fix_text=lambda text: text)
    monkeypatch.setattr("diffusers.pipelines.wan.pipeline_wan_i2v.ftfy", no_ftfy, raising=False)
    path, encode = pipeline(name, folder)
    padded = name == "Flux2KleinPipeline"  # 28 blocks over 512 tokens, whatever the prompt
    for prompt in PROMPTS[2:] if padded else PROMPTS:
        with torch.no_grad():
            theirs = encode(prompt)
        assert relative_error(ours.prompt(path, prompt), theirs) < BOUND, prompt[:60]


def test_chat_templates():
    """The fixed text of the templates is what the template of a tokenizer makes."""
    tokenizer = qwen_tokenizer()
    for prompt in PROMPTS:
        for thinking, end in ((True, ""), (False, "<think>\n\n</think>\n\n")):
            text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking)
            assert text == f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{end}"


REFERENCES = st.one_of(
    st.sampled_from(sorted(html.entities.html5)).map("&".__add__), st.integers(0, 0x120000).map("&#{};".format), st.integers(0, 0x120000).map("&#x{:X}".format),
    st.sampled_from(["&", ";", "#", "&#", "&#x", "&#X41;", "amp;", "&notit;", "&notin", "&a" * 5, "\x1c", "\x85", "\u180e", " \u3000\t", "&#99999999999999999999;", "&#0;", "&#150;"]))


def test_clean_prompts(ours):
    def theirs(text):
        return re.sub(r"\s+", " ", html.unescape(html.unescape(text)).strip()).strip()

    everything = "".join(f"&{name} &{name}; x{name}" for name in html.entities.html5)
    assert ours.clean(everything) == theirs(everything)
    numbers = " ".join(f"&#{n};&#x{n:x}" for n in [*range(0x300), *range(0xD7F0, 0xE010), *range(0xFDC0, 0xFE00), *range(0xFFF0, 0x10010), 0x1FFFE, 0x10FFFF, 0x110000])
    assert ours.clean(numbers) == theirs(numbers)

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.one_of(REFERENCES, texts), max_size=8).map("".join))
    @example("&ampamp; &AMP;lt; &ngE;&NotEqualTilde;" + "&" + "é" * 40 + ";")
    def check(text):
        assert ours.clean(text) == theirs(text)

    check()


# (file, change, what the message says); a change of None removes the file.
BAD_FOLDERS = [
    ("tokenizer/tokenizer.json", None, "tokenizer"),
    ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "_class_name must be one of"),
    ("model_index.json", None, "model_index.json"),
    ("text_encoder/config.json", {"architectures": ["BertModel"]}, "architectures[0] must be one of Qwen3ForCausalLM, "),
    ("text_encoder/config.json", {"architectures": []}, "architectures must be a list of one class"),
    ("text_encoder/config.json", {"hidden_size": None}, "hidden_size must be a whole number"),
    ("text_encoder/config.json", {"hidden_size": 64}, "does not fit its config.json"),
    ("text_encoder/config.json", {"head_dim": 15}, "head_dim must be even"),
    ("text_encoder/config.json", {"num_key_value_heads": 4}, "num_key_value_heads must be a divisor of 6 heads, got 4"),
    ("text_encoder/config.json", {"num_hidden_layers": 2}, "unexpected tensors"),
    ("text_encoder/config.json", {"num_hidden_layers": 1}, "takes hidden states -2"),
    ("text_encoder/config.json", {"num_hidden_layers": 1000000}, "num_hidden_layers = 1000000, but the weight files hold only"),
    ("text_encoder/config.json", {"hidden_act": "gelu"}, "hidden_act must be"),
    ("text_encoder/config.json", {"use_sliding_window": True}, "use_sliding_window must be false"),
    ("text_encoder/config.json", {"layer_types": ["sliding_attention"] * 3}, "layer_types[0] must be"),
    ("text_encoder/config.json", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type must be"),
    ("text_encoder/model.safetensors", None, "has neither model.safetensors nor model.safetensors.index.json"),
]


def test_bad_folders_of_a_pipeline(ours, folder):
    good = folder / "ZImagePipeline"
    if not good.exists():
        pipeline("ZImagePipeline", folder)
    (folder / "prompt.txt").write_text("a cat")
    for number, (name, change, message) in enumerate(BAD_FOLDERS):
        bad = folder / f"bad_{number}"
        shutil.copytree(good, bad)
        if change is None:
            (bad / name).unlink()
        else:
            values = {**json.loads((bad / name).read_text()), **change}
            (bad / name).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        if change == {"num_hidden_layers": 1}:
            tensors = load_file(bad / "text_encoder/model.safetensors")
            save_file({name: t for name, t in tensors.items() if "layers.1." not in name and "layers.2." not in name}, bad / "text_encoder/model.safetensors")
            change = None
        answer = ours.ask("prompt", bad, folder / "prompt.txt", folder / "embeds.safetensors")
        if change is None and "hidden states" in message:
            assert answer == "ok"  # hidden_states[-2] of one block is the embeddings
        else:
            assert message in answer and answer.startswith("error "), (name, answer)
        shutil.rmtree(bad)


def test_bad_calls_and_prompts(ours, folder):
    path = saved(qwen3(), folder / "calls")
    out = folder / "x.safetensors"
    assert "ids must be below 1700" in ours.error("states", path, "1,1700", 2, 1, out)
    assert "ids must be below 1700" in ours.error("states", path, "-1", 1, 1, out)
    assert "layers are 0 to 3, got 4" in ours.error("states", path, "1", 1, 4, out)
    for real in (0, 3):
        assert f"there must be 1 to 2 tokens that are no padding, got {real}" in ours.error("states", path, "1,2", real, 1, out)
    if not (folder / "ZImagePipeline").exists():
        pipeline("ZImagePipeline", folder)
    (folder / "prompt.txt").write_bytes(b"a \xff cat")
    assert "must be UTF-8" in ours.error("prompt", folder / "ZImagePipeline", folder / "prompt.txt", out)
