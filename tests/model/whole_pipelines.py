"""Tiny pipelines of the real diffusers classes with random weights, as people download them."""
import sys
import types
from pathlib import Path

import diffusers
import torch
import transformers
from PIL import Image

# diffusers only looks for ftfy in some of its modules; without it texts stay as they are, as in ours.
for name in ("pipeline_wan", "pipeline_wan_i2v"):
    module = getattr(diffusers.pipelines.wan, name)
    if not hasattr(module, "ftfy"):
        module.ftfy = types.SimpleNamespace(fix_text=lambda text: text)

sys.path.append(str(Path(__file__).parent / "text"))
from text_encoders import qwen3, qwen25_vl, qwen_tokenizer, t5, umt5_tokenizer  # noqa: E402

BLOCKS = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4)
IMAGE_VAE = dict(**BLOCKS, block_out_channels=[8, 8, 16, 16], layers_per_block=1, norm_num_groups=4)
VIDEO_VAE = dict(base_dim=8, z_dim=4, dim_mult=[1, 1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True],
                 latents_mean=[0.1, -0.7, 0.4, 0.0], latents_std=[2.8, 1.4, 0.3, 1.0])


def randomized(model, seed=0):
    """Weights at which no layer vanishes or saturates, norms near 1; a decoder whose pixels mostly lie in -1 .. 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "norm" in name and not name.endswith("bias"):
                value.copy_(1 + 0.2 * noise)
            elif value.ndim == 1:
                value.copy_(0.2 * noise)
            else:
                value.copy_(noise / value[0].numel() ** 0.5)
        if hasattr(model, "decoder"):
            model.decoder.conv_out.weight *= 0.2
        if hasattr(model, "bn"):
            model.bn.running_mean.copy_(torch.randn(model.bn.running_mean.shape, generator=generator))
            model.bn.running_var.copy_(0.2 + torch.rand(model.bn.running_var.shape, generator=generator))
    return model.eval()


def euler(**settings):
    return diffusers.FlowMatchEulerDiscreteScheduler(**settings)


def unipc(shift):
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def z_image(work):
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=48,
        axes_dims=[4, 6, 6], axes_lens=[512, 64, 64], all_patch_size=(2,), all_f_patch_size=(1,))
    return diffusers.ZImagePipeline(
        scheduler=euler(shift=3.0), tokenizer=qwen_tokenizer(), text_encoder=qwen3(), transformer=randomized(transformer),
        vae=randomized(diffusers.AutoencoderKL(**IMAGE_VAE, latent_channels=4, scaling_factor=0.36, shift_factor=0.11,
                                               use_quant_conv=False, use_post_quant_conv=False)))


def flux2_klein(work, distilled=True):
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=144, timestep_guidance_channels=32, mlp_ratio=2.0, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False)
    return diffusers.Flux2KleinPipeline(
        scheduler=euler(shift=3.0, use_dynamic_shifting=True), tokenizer=qwen_tokenizer(), text_encoder=qwen3(layers=28),
        transformer=randomized(transformer), is_distilled=distilled,
        vae=randomized(diffusers.AutoencoderKLFlux2(**IMAGE_VAE, latent_channels=4)))


def qwen_image(work):
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=40, guidance_embeds=False, axes_dims_rope=(4, 6, 6))
    return diffusers.QwenImagePipeline(
        scheduler=euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02),
        tokenizer=qwen_tokenizer(), text_encoder=qwen25_vl(), transformer=randomized(transformer),
        vae=randomized(diffusers.AutoencoderKLQwenImage(**VIDEO_VAE)))


def wan_transformer(seed=0, **changes):
    settings = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
                    text_dim=48, freq_dim=32, ffn_dim=48, num_layers=2, rope_max_seq_len=64)
    return randomized(diffusers.WanTransformer3DModel(**{**settings, **changes}), seed)


def wan_parts(work):
    return dict(tokenizer=umt5_tokenizer(work), text_encoder=t5(), vae=randomized(diffusers.AutoencoderKLWan(**VIDEO_VAE)))


def wan(work):
    return diffusers.WanPipeline(transformer=wan_transformer(), scheduler=unipc(3.0), **wan_parts(work))


def wan_experts(work):
    return diffusers.WanPipeline(transformer=wan_transformer(), transformer_2=wan_transformer(seed=1), boundary_ratio=0.8,
                                 scheduler=unipc(3.0), **wan_parts(work))


def clip(**changes):
    settings = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14)
    return randomized(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**{**settings, **changes})))


def wan_from_image(work, last=False):
    return diffusers.WanImageToVideoPipeline(
        transformer=wan_transformer(in_channels=4 + 4 + 4, image_dim=24, added_kv_proj_dim=32,
                                    pos_embed_seq_len=10 if last else None), scheduler=unipc(3.0),
        image_encoder=clip(), image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}), **wan_parts(work))


def wan_experts_from_image(work):
    """As Wan 2.2's I2V-A14B: latents beside the noise for both experts, no image encoder."""
    first, second = (wan_transformer(seed, in_channels=4 + 4 + 4) for seed in (0, 1))
    return diffusers.WanImageToVideoPipeline(transformer=first, transformer_2=second, boundary_ratio=0.8, scheduler=unipc(3.0),
                                             image_encoder=None, image_processor=None, **wan_parts(work))


# Of the second generation, twice as deep in space: a token is 32 pixels wide.
SMALL_VAE = {**VIDEO_VAE, **dict(decoder_base_dim=8, is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16)}


def wan_small(work):
    """Wan 2.2's TI2V model, from a text alone."""
    parts = wan_parts(work) | dict(vae=randomized(diffusers.AutoencoderKLWan(**SMALL_VAE)))
    return diffusers.WanPipeline(transformer=wan_transformer(), scheduler=unipc(3.0), expand_timesteps=True, **parts)


def wan_small_from_image(work):
    """The same with a picture: the first frame keeps timestep 0."""
    parts = wan_parts(work) | dict(vae=randomized(diffusers.AutoencoderKLWan(**SMALL_VAE)))
    return diffusers.WanImageToVideoPipeline(transformer=wan_transformer(), scheduler=unipc(3.0), image_encoder=None,
                                             image_processor=None, expand_timesteps=True, **parts)


PIPELINES = dict(z_image=z_image, flux2_klein=flux2_klein, qwen_image=qwen_image, wan=wan, wan_experts=wan_experts,
                 wan_from_image=wan_from_image, wan_experts_from_image=wan_experts_from_image, wan_small=wan_small,
                 wan_small_from_image=wan_small_from_image,
                 wan_between_images=lambda work: wan_from_image(work, last=True),
                 flux2_klein_base=lambda work: flux2_klein(work, distilled=False))


def packed(latents):
    """[channels, 1, height, width] as Qwen-Image packs them."""
    channels, _, height, width = latents.shape
    tokens = latents[:, 0].reshape(channels, height // 2, 2, width // 2, 2).permute(1, 3, 0, 2, 4)
    return tokens.reshape(1, height // 2 * (width // 2), channels * 4)


def latents_for(pipeline, noise):
    """Our noise [channels, frames, height, width] as the pipeline's argument `latents`."""
    if isinstance(pipeline, diffusers.QwenImagePipeline):
        return packed(noise)
    return noise[None] if "Wan" in type(pipeline).__name__ else noise[:, 0][None]


def picture(path, seed):
    pixels = torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    image = Image.fromarray(pixels.numpy()).resize((70, 50), Image.Resampling.BICUBIC)
    image.save(path)
    return image
