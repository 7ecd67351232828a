"""Writes a Wan transformer of real sizes with random weights, and one input for it: all that timing needs.

The weights have the scale of a freshly initialised network, so that the numbers inside stay as large as in a trained one.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
from safetensors.numpy import save_file

TENSORS = "diffusion_pytorch_model.safetensors"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Those of Wan2.1-1.3B, but for the number of blocks (it has 30)."""

    heads: int = 12
    head_dim: int = 128
    ffn: int = 8960
    text_dim: int = 4096
    text_tokens: int = 512
    blocks: int = 1
    grid: tuple[int, int, int] = (16, 16, 24)  # tokens: frames, rows, columns
    seed: int = 0
    version: int = 1  # of the way weights are made

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def tokens(self) -> int:
        return int(np.prod(self.grid))

    def config(self) -> dict:
        return {
            "_class_name": "WanTransformer3DModel",
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "ffn_dim": self.ffn,
            "num_layers": self.blocks,
            "text_dim": self.text_dim,
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": [1, 2, 2],
            "freq_dim": 256,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
        }


def linears(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    """(name, inputs, outputs) of every Linear layer."""
    dim, embedder = sizes.dim, "condition_embedder."
    yield embedder + "time_embedder.linear_1", 256, dim
    yield embedder + "time_embedder.linear_2", dim, dim
    yield embedder + "time_proj", dim, 6 * dim
    yield embedder + "text_embedder.linear_1", sizes.text_dim, dim
    yield embedder + "text_embedder.linear_2", dim, dim
    for block in range(sizes.blocks):
        for attention in ("attn1", "attn2"):
            for layer in ("to_q", "to_k", "to_v", "to_out.0"):
                yield f"blocks.{block}.{attention}.{layer}", dim, dim
        yield f"blocks.{block}.ffn.net.0.proj", dim, sizes.ffn
        yield f"blocks.{block}.ffn.net.2", sizes.ffn, dim
    yield "proj_out", dim, 64


def random_weights(sizes: Sizes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(sizes.seed)

    def normal(shape: tuple[int, ...], scale: float) -> np.ndarray:
        return (random.standard_normal(shape, dtype=np.float32) * np.float32(scale)).astype(np.float16)

    dim = sizes.dim
    weights = {"patch_embedding.weight": normal((dim, 16, 1, 2, 2), 1 / 8), "patch_embedding.bias": normal((dim,), 0.02)}
    for name, inputs, outputs in linears(sizes):
        weights[name + ".weight"] = normal((outputs, inputs), inputs**-0.5)
        weights[name + ".bias"] = normal((outputs,), 0.02)
    for block in range(sizes.blocks):
        prefix = f"blocks.{block}."
        weights[prefix + "scale_shift_table"] = normal((1, 6, dim), dim**-0.5)
        for norm in ("attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k", "norm2"):
            weights[f"{prefix}{norm}.weight"] = np.ones(dim, np.float16)
        weights[prefix + "norm2.bias"] = np.zeros(dim, np.float16)
    weights["scale_shift_table"] = normal((1, 2, dim), dim**-0.5)
    return weights


def random_input(sizes: Sizes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(sizes.seed + 1)
    frames, rows, columns = sizes.grid
    return {
        "hidden_states": random.standard_normal((1, 16, frames, 2 * rows, 2 * columns), dtype=np.float32),
        "timestep": np.full(1, 500, np.float32),
        "encoder_hidden_states": random.standard_normal((1, sizes.text_tokens, sizes.text_dim), dtype=np.float32),
    }


def description(folder: pathlib.Path, sizes: Sizes) -> str:
    """What a complete folder says about itself: the sizes asked for and the bytes that its files have."""
    files = {name: (folder / name).stat().st_size for name in (TENSORS, "config.json", "input.safetensors")}
    return json.dumps({**dataclasses.asdict(sizes), "bytes": files}, indent=2) + "\n"


def is_ready(folder: pathlib.Path, sizes: Sizes) -> bool:
    try:
        return (folder / "made.json").read_text() == description(folder, sizes)
    except OSError:
        return False


def write(folder: pathlib.Path, sizes: Sizes) -> None:
    """All or nothing: the folder gets its name when it is complete; a stopped run leaves nothing."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / "config.json").write_text(json.dumps(sizes.config(), indent=2) + "\n")
        save_file(random_input(sizes), partial / "input.safetensors")
        save_file(random_weights(sizes), partial / TENSORS)
        (partial / "made.json").write_text(description(partial, sizes))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
