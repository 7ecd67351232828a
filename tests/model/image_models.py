"""Image transformers with random weights in which every part matters, made with diffusers itself, and their reference
runs: arrays in and out as the native models take and give them."""
import contextlib

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel, ZImageTransformer2DModel
from diffusers.utils import logging

logging.set_verbosity_error()
torch.set_num_threads(1)  # the models are tiny


def randomize(model, seed=0):
    """Weights scaled so that no layer vanishes or saturates, norms far from 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1:
                value.copy_(1 + 0.3 * noise if "norm" in name or "embedder.0" in name else 0.3 * noise)
            else:
                value.copy_(1.2 * noise / value[0].numel() ** 0.5)
    return model


@contextlib.contextmanager
def double_arithmetic(module, name):
    """Makes diffusers' .float() casts keep float64, but for the timestep sinusoids module.name, which are float32 by
    definition."""
    to_float, sinusoids = torch.Tensor.float, getattr(module, name)

    def exact_sinusoids(timesteps, *arguments):
        torch.Tensor.float = to_float
        result = sinusoids(timesteps.float(), *arguments).double()
        torch.Tensor.float = torch.Tensor.double
        return result

    setattr(module, name, exact_sinusoids)
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = to_float
        delattr(module, name)


class ZImage:
    SMALL = dict(in_channels=4, dim=96, n_layers=2, n_refiner_layers=1, n_heads=3, cap_feat_dim=24,
                 axes_dims=[8, 12, 12], axes_lens=[128, 32, 32])

    @classmethod
    def model(cls, seed=0, **changes):
        return randomize(ZImageTransformer2DModel(**{**cls.SMALL, **changes}).eval(), seed)

    @staticmethod
    def inputs(model, size, *, text_len=9, batch=1, seed=1):
        """For images of `size` = (rows, columns) patches."""
        generator = torch.Generator().manual_seed(seed)
        randn = lambda *shape: torch.randn(shape, generator=generator)
        pixels = [n * model.config.all_patch_size[0] for n in size]
        return dict(hidden_states=randn(batch, model.config.in_channels, 1, *pixels),
                    timestep=torch.rand(batch, generator=generator) * 1000,
                    encoder_hidden_states=randn(batch, text_len, model.config.cap_feat_dim))

    @staticmethod
    @torch.no_grad()
    def reference(model, inputs, dtype):
        """Every block's output and the velocity, as ZImagePipeline calls the model."""
        results, hooks = {}, []
        model = model.to(dtype)
        for i, block in enumerate([*model.layers, *model.noise_refiner, *model.context_refiner]):
            hooks.append(block.register_forward_hook(
                lambda m, a, out, i=i: results.__setitem__(f"block_{i}", out.clone())))
        time = (1000 - inputs["timestep"]) / 1000
        double = contextlib.nullcontext() if dtype != torch.float64 else double_arithmetic(model.t_embedder,
                                                                                           "timestep_embedding")
        with double:
            out = model(list(inputs["hidden_states"].to(dtype)), time.to(dtype),
                        list(inputs["encoder_hidden_states"].to(dtype)), patch_size=model.config.all_patch_size[0],
                        return_dict=False)[0]
        results["output"] = -torch.stack(out)
        for hook in hooks:
            hook.remove()
        model.float()
        return {k: v.double() for k, v in results.items()}


class QwenImage:
    SMALL = dict(patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=32,
                 num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(8, 12, 12))

    @classmethod
    def model(cls, seed=0, **changes):
        return randomize(QwenImageTransformer2DModel(**{**cls.SMALL, **changes}).eval(), seed)

    @staticmethod
    def inputs(model, size, *, text_len=9, batch=1, seed=1):
        """For images of `size` = (rows, columns) patches."""
        generator = torch.Generator().manual_seed(seed)
        randn = lambda *shape: torch.randn(shape, generator=generator)
        patch = model.config.patch_size
        return dict(hidden_states=randn(batch, model.config.in_channels // patch**2, 1, *(n * patch for n in size)),
                    timestep=torch.rand(batch, generator=generator) * 1000,
                    encoder_hidden_states=randn(batch, text_len, model.config.joint_attention_dim))

    @staticmethod
    @torch.no_grad()
    def reference(model, inputs, dtype):
        """Every block's joint stream (text, then image) and the velocity, as QwenImagePipeline calls the model."""
        results, hooks = {}, []
        model = model.to(dtype)
        for i, block in enumerate(model.transformer_blocks):
            hooks.append(block.register_forward_hook(
                lambda m, a, out, i=i: results.__setitem__(f"block_{i}", torch.cat(out, dim=1))))
        image = inputs["hidden_states"][:, :, 0]
        batch, channels, height, width = image.shape
        rows, columns = height // model.config.patch_size, width // model.config.patch_size
        double = contextlib.nullcontext() if dtype != torch.float64 else double_arithmetic(
            model.time_text_embed.time_proj, "forward")
        with double:
            out = model(hidden_states=pack(image, model.config.patch_size).to(dtype),
                        timestep=(inputs["timestep"] / 1000).to(dtype),
                        encoder_hidden_states=inputs["encoder_hidden_states"].to(dtype),
                        img_shapes=[[(1, rows, columns)]] * batch, return_dict=False)[0]
        results["output"] = unpack(out, (rows, columns), model.config.patch_size)[:, :, None]
        for hook in hooks:
            hook.remove()
        model.float()
        return {k: v.double() for k, v in results.items()}


def pack(image, patch):
    """As QwenImagePipeline._pack_latents, which knows patches of 2."""
    batch, channels, height, width = image.shape
    if patch == 2:
        return QwenImagePipeline._pack_latents(image, batch, channels, height, width)
    cut = image.view(batch, channels, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * patch**2)


def unpack(tokens, size, patch):
    cut = tokens.view(tokens.shape[0], *size, -1, patch, patch)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], -1, size[0] * patch, size[1] * patch)
