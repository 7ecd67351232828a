"""FLUX.2 models with random weights in which every part matters, made with diffusers itself, and their reference runs."""
import torch
from diffusers import Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import Flux2KleinPipeline

SMALL = dict(in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
             joint_attention_dim=24, timestep_guidance_channels=32, mlp_ratio=3.0, axes_dims_rope=(4, 4, 4, 4),
             guidance_embeds=False)


def random_model(seed=0, **changes):
    """SMALL with changes; weights scaled so that no layer vanishes or saturates, norms far from 1."""
    model = Flux2Transformer2DModel(**{**SMALL, **changes}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.3 * noise if value.ndim == 1 else 1.2 * noise / value.shape[1] ** 0.5)
    return model


def random_inputs(model, size, *, text_len=9, batch=1, guidance=False, seed=1):
    """What the native model takes, for images of `size` = (rows, columns) latents."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(shape, generator=generator)
    inputs = dict(hidden_states=randn(batch, config.in_channels, 1, *size),
                  timestep=torch.rand((batch,), generator=generator) * 1000,
                  encoder_hidden_states=randn(batch, text_len, config.joint_attention_dim))
    if guidance:
        inputs["guidance"] = 1 + 3 * torch.rand((batch,), generator=generator)
    return inputs


@torch.no_grad()
def reference(model, inputs, dtype):
    """Every block's joint stream (text, then image) and the velocity in the latents' layout, as the pipeline calls."""
    results, hooks = {}, []
    model = model.to(dtype)
    doubles = len(model.transformer_blocks)
    for i, block in enumerate(model.transformer_blocks):
        hooks.append(block.register_forward_hook(
            lambda m, a, out, i=i: results.__setitem__(f"block_{i}", torch.cat(out, dim=1))))
    for i, block in enumerate(model.single_transformer_blocks):
        hooks.append(block.register_forward_hook(
            lambda m, a, out, i=i: results.__setitem__(f"block_{doubles + i}", out.clone())))
    latents, text = inputs["hidden_states"][:, :, 0], inputs["encoder_hidden_states"]
    embedder = model.time_guidance_embed
    sinusoids = embedder.time_proj.forward
    # Sinusoids are float32 by definition, whatever the model computes in; so are the numbers that they are of.
    embedder.time_proj.forward = lambda t: sinusoids(t.float()).to(dtype)
    out = model(hidden_states=Flux2KleinPipeline._pack_latents(latents).to(dtype),
                timestep=(inputs["timestep"] / 1000).to(dtype), encoder_hidden_states=text.to(dtype),
                img_ids=Flux2KleinPipeline._prepare_latent_ids(latents),
                txt_ids=Flux2KleinPipeline._prepare_text_ids(text),
                guidance=inputs["guidance"].to(dtype) if "guidance" in inputs else None, return_dict=False)[0]
    embedder.time_proj.forward = sinusoids
    for hook in hooks:
        hook.remove()
    model.float()
    batch, _, rows, columns = latents.shape
    results["output"] = out.permute(0, 2, 1).reshape(batch, -1, 1, rows, columns)
    return {k: v.double() for k, v in results.items()}
