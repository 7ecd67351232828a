"""Pipelines of diffusers, real classes in tiny random form: no text encoder and no VAE, embeddings in, latents out.

The videos are 7 x 10 x 8 tokens (frames, height, width): three different numbers, so that no two can be mixed up unseen, one of them no
multiple of 8, and 35 blocks of 16 tokens.
"""
import torch
from diffusers import (CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel, FlowMatchEulerDiscreteScheduler, FluxPipeline,
                       FluxTransformer2DModel, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel, LTXPipeline,
                       LTXVideoTransformer3DModel, QwenImagePipeline, QwenImageTransformer2DModel, SD3Transformer2DModel,
                       StableDiffusion3Pipeline, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel)

GRID = (7, 10, 8)
TEXT = 24  # width of a text token
STEPS = 2
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 32}
_ROPE = (4, 14, 14)


def _flow():
    return FlowMatchEulerDiscreteScheduler()


def _text(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wan_transformer():
    return WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=4, out_channels=4, text_dim=TEXT, freq_dim=32, ffn_dim=96, num_layers=2,
                                 cross_attn_norm=True, rope_max_seq_len=32, **_HEADS)


def _wan():
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=wan_transformer(),
                       scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0))
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), negative_prompt_embeds=_text(1, 9, TEXT, seed=6), guidance_scale=3.0, num_frames=25,
                      height=160, width=128)


def _hunyuan():
    """The last 3 of 9 text tokens are padding."""
    model = HunyuanVideoTransformer3DModel(in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, num_refiner_layers=1,
                                           text_embed_dim=TEXT, pooled_projection_dim=16, rope_axes_dim=_ROPE, mlp_ratio=2.0, **_HEADS)
    pipe = HunyuanVideoPipeline(text_encoder=None, tokenizer=None, transformer=model, vae=None, scheduler=_flow(), text_encoder_2=None,
                                tokenizer_2=None)
    mask = torch.tensor([[True] * 6 + [False] * 3])
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), pooled_prompt_embeds=_text(1, 16), prompt_attention_mask=mask, num_frames=25,
                      height=160, width=128)


def _cogvideox():
    model = CogVideoXTransformer3DModel(in_channels=4, out_channels=4, text_embed_dim=TEXT, num_layers=2, time_embed_dim=8,
                                        sample_width=16, sample_height=20, sample_frames=25, max_text_seq_length=9,
                                        use_rotary_positional_embeddings=True, **_HEADS)
    pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=model, scheduler=CogVideoXDDIMScheduler())
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), negative_prompt_embeds=_text(1, 9, TEXT, seed=6), guidance_scale=3.0, num_frames=25,
                      height=160, width=128, max_sequence_length=9)


def _ltx():
    model = LTXVideoTransformer3DModel(in_channels=8, out_channels=8, num_layers=2, cross_attention_dim=64, caption_channels=TEXT, **_HEADS)
    pipe = LTXPipeline(scheduler=_flow(), vae=None, text_encoder=None, tokenizer=None, transformer=model)
    mask = torch.tensor([[True] * 6 + [False] * 3])
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), negative_prompt_embeds=_text(1, 9, TEXT, seed=6), prompt_attention_mask=mask,
                      negative_prompt_attention_mask=mask, guidance_scale=3.0, num_frames=49, height=320, width=256)


def _flux():
    model = FluxTransformer2DModel(in_channels=16, num_layers=1, num_single_layers=1, joint_attention_dim=TEXT, pooled_projection_dim=16,
                                   axes_dims_rope=_ROPE, **_HEADS)
    pipe = FluxPipeline(scheduler=_flow(), vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
                        transformer=model)
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), pooled_prompt_embeds=_text(1, 16), height=160, width=128)


def _sd3():
    model = SD3Transformer2DModel(sample_size=20, in_channels=4, out_channels=4, num_layers=2, joint_attention_dim=TEXT,
                                  caption_projection_dim=64, pooled_projection_dim=16, pos_embed_max_size=20, **_HEADS)
    pipe = StableDiffusion3Pipeline(transformer=model, scheduler=_flow(), vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None,
                                    tokenizer_2=None, text_encoder_3=None, tokenizer_3=None)
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), negative_prompt_embeds=_text(1, 9, TEXT, seed=6), pooled_prompt_embeds=_text(1, 16),
                      negative_pooled_prompt_embeds=_text(1, 16, seed=6), height=160, width=128)


def _qwen():
    model = QwenImageTransformer2DModel(in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=TEXT, axes_dims_rope=_ROPE,
                                        **_HEADS)
    pipe = QwenImagePipeline(scheduler=_flow(), vae=None, text_encoder=None, tokenizer=None, transformer=model)
    mask = torch.ones(1, 9, dtype=torch.long)
    return pipe, dict(prompt_embeds=_text(1, 9, TEXT), prompt_embeds_mask=mask, true_cfg_scale=1.0, height=160, width=128)


VIDEO = {"wan": _wan, "hunyuan": _hunyuan, "cogvideox": _cogvideox, "ltx": _ltx}
IMAGE = {"flux": _flux, "sd3": _sd3, "qwen": _qwen}


def build(name):
    """(pipeline, arguments of its call), the same weights every time. Fresh weights attend to everything alike, which would hide what
    attention does wrong, so the norms of q and k are enlarged."""
    torch.manual_seed(3)
    pipe, arguments = {**VIDEO, **IMAGE}[name]()
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for parameter, value in pipe.transformer.eval().named_parameters():
            if parameter.endswith(("norm_q.weight", "norm_k.weight")):
                value.mul_(4)
    return pipe, arguments


def latents(pipe, arguments, **more):
    """The latents after STEPS steps from fixed noise."""
    return pipe(**{"num_inference_steps": STEPS, **arguments, **more}, output_type="latent", return_dict=False,
                generator=torch.Generator().manual_seed(1))[0]


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())
