"""Tiny text encoders of transformers with random weights, whole pipeline folders around them, and the program that runs
ours on them."""

import subprocess

import torch
import transformers
from safetensors.torch import load_file
from tokenizer_files import qwen, train_sentencepiece, umt5

# What Qwen3's chat template says about messages without tools.
QWEN3_TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


class Ours:
    """tests/programs/text_forward, which answers calls line by line."""

    def __init__(self, build, folder, *scheme):
        self.folder = folder
        self.process = subprocess.Popen([build / "tests/text_forward", *scheme], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *fields):
        self.process.stdin.write("\t".join(map(str, fields)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def error(self, *fields):
        answer = self.ask(*fields)
        assert answer.startswith("error "), answer
        return answer.removeprefix("error ")

    def states(self, path, ids, real, layers):
        out = self.folder / "states.safetensors"
        lists = [",".join(map(str, some)) for some in (ids, layers)]
        answer = self.ask("states", path, lists[0], real, lists[1], out)
        assert answer == "ok", answer
        return [load_file(out)[f"layer_{layer}"] for layer in layers]

    def prompt(self, path, text):
        (self.folder / "prompt.txt").write_bytes(text.encode())
        answer = self.ask("prompt", path, self.folder / "prompt.txt", self.folder / "embeds.safetensors")
        assert answer == "ok", answer
        return load_file(self.folder / "embeds.safetensors")["embeds"]

    def clean(self, text):
        (self.folder / "prompt.txt").write_bytes(text.encode())
        answer = self.ask("clean", self.folder / "prompt.txt", self.folder / "clean.txt")
        assert answer == "ok", answer
        return (self.folder / "clean.txt").read_bytes().decode()

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0
        self.process.stdout.close()


def randomized(model, seed=0):
    """Weights large enough for errors to show; norms near one."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.normal_(0, 2)
            elif name.endswith("SelfAttention.q.weight"):  # T5 does not scale scores, its weights do
                parameter.normal_(0, 1.2 / (parameter.shape[-1] * model.config.d_kv) ** 0.5)
            elif "embed" in name or "shared" in name:
                parameter.normal_(0, 1)
            else:
                parameter.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
    return model.eval().float()


def qwen3(layers=3, vocabulary=1700, **changes):
    settings = {"vocab_size": vocabulary, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": layers,
                "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
                "tie_word_embeddings": True, **changes}
    return randomized(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings)))


def qwen25_vl(layers=2, vocabulary=1700):
    text = {"vocab_size": vocabulary, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": layers, "num_attention_heads": 5,
            "num_key_value_heads": 5, "rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 40, "fullatt_block_indexes": [0]}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return randomized(transformers.Qwen2_5_VLForConditionalGeneration(config))


def t5(kind="UMT5", layers=3, vocabulary=800, **changes):
    settings = {"vocab_size": vocabulary, "d_model": 48, "d_kv": 10, "d_ff": 72, "num_layers": layers, "num_heads": 5,
                "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "feed_forward_proj": "gated-gelu", **changes}
    return randomized(getattr(transformers, kind + "EncoderModel")(getattr(transformers, kind + "Config")(**settings)))


def qwen_tokenizer():
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=qwen(), pad_token="<|endoftext|>", eos_token="<|im_end|>", chat_template=QWEN3_TEMPLATE,
        clean_up_tokenization_spaces=False)


def umt5_tokenizer(folder):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=umt5(train_sentencepiece(folder)), pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
