"""LoRA files merged into native models, against diffusers' load_lora_weights and fuse_lora."""
import json

import flux2_models
import pytest
import torch
import wan_models
from diffusers.loaders.lora_pipeline import Flux2LoraLoaderMixin, WanLoraLoaderMixin, ZImageLoraLoaderMixin
from image_models import ZImage
from safetensors.torch import load_file, save_file
from wan_models import error, run_program

BOUND = 1e-5


class Family:
    """Tiny models of one family, and what their pipeline's loader makes of a LoRA."""
    def __init__(self, models, loader, size, layers):
        self.make = getattr(models, "random_model", None) or models.model
        self.given = getattr(models, "random_inputs", None) or models.inputs
        self.reference, self.loader, self.size, self.layers = models.reference, loader, size, layers

    def inputs(self, model):
        return self.given(model, self.size)

    def output(self, model, inputs):
        return self.reference(model, inputs, torch.float64)["output"]

    def fused(self, loras):
        """The model with these (state dict, weight, metadata) merged by diffusers."""
        model = self.make()
        for i, (state, weight, metadata) in enumerate(loras):
            state = self.loader.lora_state_dict(dict(state))
            self.loader.load_lora_into_transformer(state, transformer=model, adapter_name=f"lora{i}", metadata=metadata)
            model.set_adapters([f"lora{i}"], [weight])
            model.fuse_lora(adapter_names=[f"lora{i}"])
            model.unload_lora()
        return model


FAMILIES = {
    "wan": Family(wan_models, WanLoraLoaderMixin, (2, 3, 4),
                  ["blocks.0.attn1.to_q", "blocks.1.attn2.to_out.0", "blocks.0.ffn.net.0.proj", "blocks.1.ffn.net.2"]),
    "flux2": Family(flux2_models, Flux2LoraLoaderMixin, (3, 4),
                    ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_out.0", "transformer_blocks.0.ff.linear_in",
                     "single_transformer_blocks.1.attn.to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"]),
    "z_image": Family(ZImage, ZImageLoraLoaderMixin, (3, 4),
                      ["layers.0.attention.to_q", "layers.1.attention.to_out.0", "noise_refiner.0.feed_forward.w1",
                       "layers.1.feed_forward.w2"]),
}
KOHYA = {
    "wan": [f"blocks.{i}.{m}" for i in range(2) for m in [f"{a}_attn.{p}" for a in ("self", "cross") for p in "qkvo"] + ["ffn.0", "ffn.2"]],
    "flux2": ["double_blocks.0.img_attn.qkv", "double_blocks.1.txt_attn.qkv", "double_blocks.1.img_attn.proj",
              "double_blocks.0.txt_mlp.0", "double_blocks.0.img_mlp.2", "single_blocks.1.linear1", "single_blocks.0.linear2"],
    "z_image": ["layers.0.attention.to_q", "layers.1.attention.to_v", "layers.0.attention.out", "layers.1.feed_forward.w1",
                "layers.0.feed_forward.w2", "layers.1.adaLN_modulation.0"],
}
ORIGINAL = {"wan": [*KOHYA["wan"], "time_projection.1", "head.head"],
            "flux2": [*KOHYA["flux2"], "img_in", "final_layer.linear", "double_stream_modulation_img.lin"],
            "z_image": FAMILIES["z_image"].layers}


def sizes(family, layer):
    """(out, in) features of a layer by its name in diffusers or in the original code."""
    modules = dict(family.make().named_modules())
    layer = layer.replace("attention.out", "attention.to_out.0")
    if layer in modules:
        return modules[layer].weight.shape
    dim = 64 if family is FAMILIES["wan"] else 32
    ends = {"qkv": (3 * dim, dim), "ffn.0": (96, dim), "ffn.2": (dim, 96), "mlp.0": (6 * dim, dim), "mlp.2": (dim, 3 * dim),
            "linear1": (9 * dim, dim), "linear2": (dim, 4 * dim), "time_projection.1": (6 * dim, dim), "head.head": (16, dim),
            "img_in": (dim, 8), "final_layer.linear": (8, dim), "img.lin": (6 * dim, dim)}
    return next((v for k, v in ends.items() if layer.endswith(k)), (dim, dim))


def lora(family, layers, names, rank=3, seed=0):
    """{key: tensor} of matrices; names: (before, down, up) of the keys, and True where dots become underscores."""
    before, down, up, flat = names
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for i, layer in enumerate(layers):
        out_features, in_features = sizes(family, layer)
        key = before + (layer.replace(".", "_") if flat else layer)
        state[key + down] = torch.randn(rank + i % 2, in_features, generator=generator) / in_features ** 0.5
        state[key + up] = torch.randn(out_features, rank + i % 2, generator=generator) / 2
    return state


PEFT = ("transformer.", ".lora_A.weight", ".lora_B.weight", False)
BEHIND = ("diffusion_model.", ".lora_A.weight", ".lora_B.weight", False)
UNET = ("lora_unet_", ".lora_down.weight", ".lora_up.weight", True)


def alphas(state):
    downs = [k for k in state if k.endswith(".lora_down.weight")]
    return {k.replace(".lora_down.weight", ".alpha"): torch.tensor(float(1 + i % 4)) for i, k in enumerate(downs)}


def merged(folder, work, inputs, *loras):
    save_file(inputs, work / "inputs.safetensors")
    done = run_program("transformer_forward", folder, work / "inputs.safetensors", work / "out.safetensors", *loras)
    assert done.returncode == 0, done.stderr
    return load_file(work / "out.safetensors")["output"]


def check(family, work, loras):
    """loras: [(state, weight, metadata)]: ours against diffusers', and the change must be large."""
    model = family.make()
    model.save_pretrained(work / "model")
    inputs = family.inputs(model)
    arguments = []
    for i, (state, weight, metadata) in enumerate(loras):
        told = {"lora_adapter_metadata": json.dumps(metadata)} if metadata else None
        save_file({k: v.contiguous() for k, v in state.items()}, work / f"lora{i}.safetensors", metadata=told)
        arguments += [work / f"lora{i}.safetensors", weight]
    ours = merged(work / "model", work, inputs, *arguments)
    exact = family.output(family.fused(loras), inputs)
    assert error(ours, exact) <= BOUND
    assert error(family.output(model, inputs), exact) > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_peft(name, tmp_path):
    family = FAMILIES[name]
    check(family, tmp_path, [(lora(family, family.layers, PEFT), 0.7, None)])


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_kohya(name, tmp_path):
    family = FAMILIES[name]
    state = lora(family, KOHYA[name], UNET)
    check(family, tmp_path, [({**state, **alphas(state)}, 1.0, None)])


@pytest.mark.parametrize("name", FAMILIES)
def test_original_names_behind_diffusion_model(name, tmp_path):
    family = FAMILIES[name]
    check(family, tmp_path, [(lora(family, ORIGINAL[name], BEHIND), -0.5, None)])


def test_several_files_add_up(tmp_path):
    family = FAMILIES["flux2"]
    second = lora(family, KOHYA["flux2"], UNET, rank=2, seed=5)
    check(family, tmp_path, [(lora(family, family.layers, PEFT), 0.7, None), ({**second, **alphas(second)}, 0.4, None)])


def test_biases(tmp_path):
    family = FAMILIES["wan"]
    state = lora(family, KOHYA["wan"], BEHIND)
    state["diffusion_model.blocks.0.ffn.0.diff_b"] = torch.randn(96)
    state["diffusion_model.blocks.1.self_attn.q.diff_b"] = torch.randn(64)
    check(family, tmp_path, [(state, 0.8, None)])


@pytest.mark.parametrize("change", [{}, {"use_rslora": True}, {"alpha_pattern": {"blocks.0.attn1.to_q": 5}}])
def test_metadata_of_diffusers(change, tmp_path):
    family = FAMILIES["wan"]
    state = lora(family, family.layers[:1] + family.layers[2:3], PEFT)
    metadata = {"r": 3, "lora_alpha": 7, "target_modules": [family.layers[0], family.layers[2]], **change}
    metadata = {f"transformer.{k}": v for k, v in metadata.items()}
    state = {k: v[:3] if "lora_A" in k else v[:, :3] for k, v in state.items()}
    check(family, tmp_path, [(state, 1.0, metadata)])


def wan_state():
    return lora(FAMILIES["wan"], FAMILIES["wan"].layers, PEFT)


KEY = "transformer.blocks.0.attn1.to_q.lora_A.weight"


def drop(state, key):
    del state[key]


@pytest.mark.parametrize("change, expected", [
    (lambda s: s.update({"transformer.blocks.9.attn1.to_q.lora_A.weight": torch.ones(2, 64), "what": torch.ones(1)}),
     "no Linear of the model fits 2 keys: what, transformer.blocks.9.attn1.to_q.lora_A.weight"),
    (lambda s: s.update({f"a{i}": torch.ones(1) for i in range(9)}), "no Linear of the model fits 9 keys: a0, a1, a2, a3, a4, ..."),
    (lambda s: s.update({KEY: torch.ones(3, 63)}),
     f"layer blocks.0.attn1.to_q needs '{KEY}' [rank,64] and '{KEY.replace('_A', '_B')}' [64,rank], got [3,63] and [64,3]"),
    (lambda s: s.update({KEY: torch.ones(2, 64)}), "layer blocks.0.attn1.to_q needs"),
    (lambda s: s.update({KEY: torch.ones(64)}), "layer blocks.0.attn1.to_q needs"),
    (lambda s: drop(s, KEY), f"layer blocks.0.attn1.to_q has '{KEY.replace('_A', '_B')}' without its other half"),
    (lambda s: s.update({KEY: torch.full((3, 64), torch.nan)}), f"'{KEY}' f32[3,64] is not finite"),
    (lambda s: s.update({KEY: torch.ones(3, 64).int()}), f"'{KEY}' must be f32, bf16 or f16, got i32[3,64]"),
    (lambda s: s.update({KEY.replace("lora_A.weight", "alpha"): torch.ones(2)}), "must be one number, got f32[2]"),
    (lambda s: s.update({KEY.replace("lora_A", "lora_down"): torch.ones(3, 64)}), "are the same part of a layer"),
    (lambda s: s.update({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(3, 64),
                         "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(64, 3)}),
     "layer blocks.0.attn1.to_q is there twice, under two names"),
    (lambda s: s.update({"diffusion_model.blocks.0.norm3.diff": torch.ones(64)}), "no Linear of the model fits 1 key:"),
    (lambda s: s.clear() or s.update({"diffusion_model.blocks.0.norm3.diff": torch.zeros(64)}), "has no layers of LoRA"),
])
def test_files_that_do_not_fit(change, expected, tmp_path):
    FAMILIES["wan"].make().save_pretrained(tmp_path / "model")
    state = wan_state()
    change(state)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "lora.safetensors")
    done = run_program("transformer_forward", tmp_path / "model", tmp_path / "i", tmp_path / "o", tmp_path / "lora.safetensors", 1)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"[lora] {tmp_path}/lora.safetensors") and expected in done.stderr
