"""Wan models with random weights in which every part matters, made with diffusers itself, and their reference runs."""
import contextlib
import json
import os
import subprocess
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging
from safetensors.torch import load_file, save_file

logging.set_verbosity_error()
torch.set_num_threads(1)  # the models are tiny
ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(os.environ.get("AEROGEL_BUILD", ROOT / "build/release")) / "tests"

SMALL = dict(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4,
             text_dim=24, freq_dim=64, ffn_dim=96, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32)


def random_model(seed=0, **changes):
    """SMALL with changes; weights scaled so that no layer vanishes or saturates, norms and tables far from 1 and 0."""
    config = {**SMALL, **changes}
    model = WanTransformer3DModel(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim == 1:
                value.copy_(1 + 0.3 * noise if "norm" in name and name.endswith("weight") else 0.3 * noise)
            elif name.endswith(("scale_shift_table", "pos_embed")):
                value.copy_(0.5 * noise)
            else:
                value.copy_(1.2 * noise / value[0].numel() ** 0.5)
    return model


def random_inputs(model, size, *, text_len=9, batch=1, per_token=False, image_len=None, seed=1):
    """The arguments of forward() for videos of `size` = (frames, height, width) patches."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    randn = lambda *shape: torch.randn(shape, generator=generator)
    pixels = [n * p for n, p in zip(size, config.patch_size)]
    tokens = size[0] * size[1] * size[2]
    times = (torch.rand((batch, tokens) if per_token else (batch,), generator=generator) * 1000).float()
    inputs = dict(hidden_states=randn(batch, config.in_channels, *pixels), timestep=times,
                  encoder_hidden_states=randn(batch, text_len, config.text_dim))
    if image_len is not None:
        pairs = 2 if config.pos_embed_seq_len else 1
        # Faint, so that the epsilon of the image norms counts.
        inputs["encoder_hidden_states_image"] = 0.05 * randn(pairs * batch, image_len, config.image_dim)
    return inputs


@contextlib.contextmanager
def _double_arithmetic(model):
    """Makes diffusers' .float() casts keep float64, but for the timestep sinusoids, which are float32 by definition."""
    embedder, to_float = model.condition_embedder, torch.Tensor.float
    sinusoids = embedder.timesteps_proj.forward

    def exact_sinusoids(timesteps):
        torch.Tensor.float = to_float
        result = sinusoids(timesteps.float()).double()
        torch.Tensor.float = torch.Tensor.double
        return result

    embedder.timesteps_proj.forward = exact_sinusoids
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.Tensor.float = to_float
        embedder.timesteps_proj.forward = sinusoids


@torch.no_grad()
def reference(model, inputs, dtype):
    """Every block's output and the final one, computed by diffusers in float32 or float64."""
    results, hooks = {}, []
    model = model.to(dtype)
    for i, block in enumerate(model.blocks):
        hooks.append(block.register_forward_hook(lambda m, a, out, i=i: results.__setitem__(f"block_{i}", out.clone())))
    double = _double_arithmetic(model) if dtype == torch.float64 else contextlib.nullcontext()
    with double:
        results["output"] = model(**{k: v.to(dtype) for k, v in inputs.items()}, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    model.float()
    return {k: v.double() for k, v in results.items()}


def run_program(*arguments, **environment):
    done = subprocess.run([str(PROGRAMS / arguments[0]), *map(str, arguments[1:])], capture_output=True, text=True,
                          env={**os.environ, **environment})
    return done


def forward(folder, inputs, work, **environment):
    """The same from the program transformer_forward."""
    save_file({k: v.contiguous() for k, v in inputs.items()}, work / "inputs.safetensors")
    done = run_program("transformer_forward", folder, work / "inputs.safetensors", work / "out.safetensors",
                       **environment)
    assert done.returncode == 0, done.stderr
    return load_file(work / "out.safetensors")


def error(ours, exact):
    return float((ours.double() - exact).norm() / exact.norm())


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
