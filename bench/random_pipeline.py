"""Writes a pipeline folder with random weights of the real sizes, as published ones are laid out: configs, sharded weights (bf16, and
float32 where the published ones are), scheduler, a tokenizer of a tiny vocabulary, model_index.json. For measuring memory and time
where no weights can be downloaded.

    python bench/random_pipeline.py z-image-turbo /tmp/z-image            # all of it
    python bench/random_pipeline.py wan2.1-t2v-1.3b /tmp/wan --only transformer --bf16
    python bench/random_pipeline.py wan2.2-t2v-a14b /tmp/a14b --zeros     # 126 GB that take hardly any room

Names and shapes come from the classes of diffusers and transformers, built without memory (torch's meta device); values are
written tensor by tensor.
"""

import argparse
import json
import os
import pathlib

import numpy as np
import torch

SHARD_BYTES = 5 * 10**9
BYTES = {"BF16": 2, "F32": 4}

QWEN3_4B = dict(vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
                num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, rms_norm_eps=1e-6, rope_theta=1e6,
                tie_word_embeddings=True)
UMT5_XXL = dict(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu",
                relative_attention_num_buckets=32, relative_attention_max_distance=128, dropout_rate=0.1, layer_norm_epsilon=1e-6)
QWEN25_VL_7B = dict(
    text_config=dict(vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
                     num_key_value_heads=4, max_position_embeddings=128000, rms_norm_eps=1e-6,
                     rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24])),
    vision_config=dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584))
FLUX_VAE = dict(act_fn="silu", block_out_channels=[128, 256, 512, 512], down_block_types=["DownEncoderBlock2D"] * 4,
                up_block_types=["UpDecoderBlock2D"] * 4, in_channels=3, out_channels=3, latent_channels=16, layers_per_block=2,
                norm_num_groups=32, sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                use_post_quant_conv=False, mid_block_add_attention=True)
FLOW_EULER = dict(_class_name="FlowMatchEulerDiscreteScheduler", num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False)
UNIPC = dict(_class_name="UniPCMultistepScheduler", num_train_timesteps=1000, prediction_type="flow_prediction",
             use_flow_sigmas=True, flow_shift=3.0, solver_order=2, solver_type="bh2", predict_x0=True, lower_order_final=True,
             final_sigmas_type="zero", beta_start=0.0001, beta_end=0.02, beta_schedule="linear")

# What the Wan models have in common; the statistics of latents mean nothing with random weights.
WAN = dict(patch_size=[1, 2, 2], attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096, freq_dim=256, cross_attn_norm=True,
           qk_norm="rms_norm_across_heads", eps=1e-6, rope_max_seq_len=1024)
WAN_1_3B = WAN | dict(num_attention_heads=12, ffn_dim=8960, num_layers=30)
WAN_5B = WAN | dict(num_attention_heads=24, ffn_dim=14336, num_layers=30, in_channels=48, out_channels=48)
WAN_14B = WAN | dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)
WAN_VAE_OF_48_CHANNELS = dict(base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12, patch_size=2,
                              scale_factor_temporal=4, scale_factor_spatial=16, latents_mean=[0.0] * 48,
                              latents_std=[1.0] * 48)
CLIP_VIT_H = dict(hidden_size=1280, intermediate_size=5120, projection_dim=1024, num_hidden_layers=32, num_attention_heads=16,
                  image_size=224, patch_size=14, hidden_act="gelu")
FROM_IMAGE = "WanImageToVideoPipeline"


def wan(transformer: dict, pipeline: str = "WanPipeline", vae: dict | None = None, image_encoder: dict | None = None,
        flow_shift: float = 3.0, **extra) -> dict:
    """A row of MODELS; with a boundary_ratio there are two experts."""
    parts = dict(transformer=("diffusers", "WanTransformer3DModel", transformer))
    if "boundary_ratio" in extra:
        parts["transformer_2"] = parts["transformer"]
    if image_encoder:
        parts["image_encoder"] = ("transformers", "CLIPVisionModel", image_encoder)
    parts |= dict(text_encoder=("transformers", "UMT5EncoderModel", UMT5_XXL), vae=("diffusers", "AutoencoderKLWan", vae or {}))
    float32 = {"transformer", "transformer_2", "vae"}
    if not extra:  # Wan 2.1's text encoder; that of 2.2 is bf16
        float32.add("text_encoder")
    return dict(pipeline=pipeline, extra=extra, tokenizer="t5", scheduler=UNIPC | dict(flow_shift=flow_shift), parts=parts, float32=float32)


# component -> (library, class, config); the pipeline's class, extra keys of model_index.json, components whose weights are float32.
MODELS = {
    "z-image-turbo": dict(
        pipeline="ZImagePipeline", scheduler=FLOW_EULER, tokenizer="qwen", parts=dict(
            transformer=("diffusers", "ZImageTransformer2DModel", dict(
                all_patch_size=[2], all_f_patch_size=[1], in_channels=16, dim=3840, n_layers=30, n_refiner_layers=2, n_heads=30,
                n_kv_heads=30, norm_eps=1e-5, qk_norm=True, cap_feat_dim=2560, rope_theta=256.0, t_scale=1000.0,
                axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512])),
            text_encoder=("transformers", "Qwen3ForCausalLM", QWEN3_4B),
            vae=("diffusers", "AutoencoderKL", FLUX_VAE))),
    "flux2-klein-4b": dict(
        pipeline="Flux2KleinPipeline", extra=dict(is_distilled=True), tokenizer="qwen",
        scheduler=FLOW_EULER | dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
                                    max_image_seq_len=4096, time_shift_type="exponential"),
        parts=dict(
            transformer=("diffusers", "Flux2Transformer2DModel", dict(
                patch_size=1, in_channels=128, num_layers=5, num_single_layers=20, attention_head_dim=128, num_attention_heads=24,
                joint_attention_dim=7680, timestep_guidance_channels=256, mlp_ratio=3.0, axes_dims_rope=[32, 32, 32, 32],
                rope_theta=2000, eps=1e-6, guidance_embeds=False)),
            text_encoder=("transformers", "Qwen3ForCausalLM", QWEN3_4B),
            vae=("diffusers", "AutoencoderKLFlux2", {}))),
    "qwen-image": dict(
        pipeline="QwenImagePipeline", tokenizer="qwen",
        scheduler=FLOW_EULER | dict(shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256,
                                    max_image_seq_len=8192, shift_terminal=0.02, time_shift_type="exponential"),
        parts=dict(
            transformer=("diffusers", "QwenImageTransformer2DModel", dict(
                patch_size=2, in_channels=64, out_channels=16, num_layers=60, attention_head_dim=128, num_attention_heads=24,
                joint_attention_dim=3584, guidance_embeds=False, axes_dims_rope=[16, 56, 56])),
            text_encoder=("transformers", "Qwen2_5_VLForConditionalGeneration", QWEN25_VL_7B),
            vae=("diffusers", "AutoencoderKLQwenImage", {}))),
    "wan2.1-t2v-1.3b": wan(WAN_1_3B),
    "wan2.1-t2v-14b": wan(WAN_14B),
    "wan2.1-i2v-14b": wan(WAN_14B | dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120), FROM_IMAGE, image_encoder=CLIP_VIT_H),
    "wan2.2-t2v-a14b": wan(WAN_14B, boundary_ratio=0.875),
    "wan2.2-i2v-a14b": wan(WAN_14B | dict(in_channels=36), FROM_IMAGE, boundary_ratio=0.9),
    "wan2.2-ti2v-5b": wan(WAN_5B, vae=WAN_VAE_OF_48_CHANNELS, flow_shift=5.0, expand_timesteps=True),
}

CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}")
WORDS = ["a cat sits on a red chair beside the window in the evening light", "blue stars move over a quiet sea and small boats",
         "an astronaut rides a horse through green fields, photograph, 35 mm", "two dogs run along the beach in slow motion"] * 4


class Values:
    """Normal numbers of a given spread, as the bytes of a type: one pool, from another place for each tensor. `zeros`: but for vectors,
    zeros instead, which are holes in the file."""

    def __init__(self, seed: int, zeros: bool = False, bf16: bool = False):
        self.zeros = zeros
        self.bf16 = bf16  # also where the published weights are float32
        self.pool = np.random.default_rng(seed).standard_normal(1 << 22, dtype=np.float32)
        self.made: dict[tuple[str, float, float], np.ndarray] = {}
        self.at = 0

    def of(self, dtype: str, mean: float, spread: float) -> np.ndarray:
        if (dtype, mean, spread) not in self.made:
            values = (mean + spread * self.pool).astype(np.float32)
            if dtype == "BF16":
                bits = values.view(np.uint32)
                values = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
            self.made[dtype, mean, spread] = values
        return self.made[dtype, mean, spread]

    def write(self, file, name: str, shape: tuple[int, ...], dtype: str) -> None:
        left = int(np.prod(shape))
        if self.zeros and len(shape) > 1:
            file.seek(BYTES[dtype] * left, os.SEEK_CUR)
            return
        norm = len(shape) < 2 and "norm" in name and name.endswith("weight")
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 0
        pool = self.of(dtype, 1.0, 0.1) if norm else self.of(dtype, 0.0, fan_in ** -0.5 if fan_in else 0.02)
        while left > 0:
            part = pool[self.at:self.at + left]
            file.write(part.tobytes())
            left -= part.size
            self.at = (self.at + part.size) % (pool.size - 7919)


def shapes_of(library: str, name: str, config: dict):
    """A model of that class without memory: (object with its config, names and shapes of what it saves)."""
    with torch.device("meta"):
        if library == "diffusers":
            import diffusers
            model = getattr(diffusers, name)(**config)
        else:
            import transformers
            model = getattr(transformers, name)(getattr(transformers, name).config_class(**config))
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if getattr(model.config, "tie_word_embeddings", False) else set()
    if "T5" in name:
        tied = {"encoder.embed_tokens.weight"}  # the same as shared.weight
    return model, {key: tuple(value.shape) for key, value in model.state_dict().items() if key not in tied}


def write_file(path: pathlib.Path, shapes: dict[str, tuple[int, ...]], values: Values, dtype: str) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        size = BYTES[dtype] * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            values.write(file, name, shape, dtype)
        file.truncate(8 + len(text) + end)


def write_weights(folder: pathlib.Path, stem: str, shapes: dict[str, tuple[int, ...]], values: Values, dtype: str) -> int:
    sizes = {name: BYTES[dtype] * int(np.prod(shape)) for name, shape in shapes.items()}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = SHARD_BYTES
    for name, shape in shapes.items():
        if sizes[name] > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = shape
        room -= sizes[name]
    total = sum(sizes.values())
    if len(shards) == 1:
        write_file(folder / f"{stem}.safetensors", shards[0], values, dtype)
        return total
    weight_map = {}
    for i, shard in enumerate(shards):
        name = f"{stem}-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_file(folder / name, shard, values, dtype)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return total


def write_tokenizer(folder: pathlib.Path, kind: str) -> tuple[str, str]:
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    if kind == "qwen":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
        tokenizer.train_from_iterator(WORDS, trainers.BpeTrainer(
            vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
        fast = transformers.Qwen2TokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
        fast.chat_template = CHAT_TEMPLATE
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.train_from_iterator(WORDS, trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<pad>", "</s>", "<s>", "<unk>"], unk_token="<unk>", show_progress=False))
        fast = transformers.T5TokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                                            extra_ids=0)
    fast.save_pretrained(folder)
    return "transformers", type(fast).__name__


def write_image_processor(folder: pathlib.Path, side: int) -> None:
    from transformers import CLIPImageProcessor
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder)


def write_pipeline(name: str, folder: pathlib.Path, only: set[str], values: Values) -> None:
    model = MODELS[name]
    index = {"_class_name": model["pipeline"], "_diffusers_version": "0.36.0", **model.get("extra", {})}
    for part, (library, kind, config) in model["parts"].items():
        written = not only or part in only
        index[part] = [library, kind] if written else [None, None]
        if not written:
            continue
        home = folder / part
        home.mkdir(parents=True, exist_ok=True)
        built, shapes = shapes_of(library, kind, config)
        dtype = "F32" if part in model.get("float32", ()) and not values.bf16 else "BF16"
        if library == "diffusers":
            built.save_config(home)
        else:
            built.config.architectures = [kind]
            built.config.dtype = torch.bfloat16 if dtype == "BF16" else torch.float32
            built.config.save_pretrained(home)
        total = write_weights(home, "diffusion_pytorch_model" if library == "diffusers" else "model", shapes, values, dtype)
        print(f"{home}: {len(shapes)} tensors, {total / 1e9:.2f} GB of {dtype}")
    if "image_encoder" in model["parts"]:
        write_image_processor(folder / "image_processor", model["parts"]["image_encoder"][2]["image_size"])
        index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    index["scheduler"] = ["diffusers", model["scheduler"]["_class_name"]]
    index["tokenizer"] = [None, None]
    if not only or "tokenizer" in only:
        index["tokenizer"] = ["transformers", "Qwen2Tokenizer" if model["tokenizer"] == "qwen" else "T5Tokenizer"]
        write_tokenizer(folder / "tokenizer", model["tokenizer"])
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model["scheduler"], indent=2))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(MODELS))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", default=[], metavar="COMPONENT", help="these components' weights and no others")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zeros", action="store_true", help="matrices of zeros: files of the real sizes that take little room, for measuring memory")
    parser.add_argument("--bf16", action="store_true", help="write bf16 also where the published weights are float32")
    arguments = parser.parse_args()
    write_pipeline(arguments.model, arguments.folder, set(arguments.only), Values(arguments.seed, arguments.zeros, arguments.bf16))


if __name__ == "__main__":
    main()
