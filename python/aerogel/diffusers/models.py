"""How diffusers' video transformers lay out their tokens: which layers attend over the video, its latent shape, and where the text is.

To add a model, add a row. A layer that is not named stays as it is: cross attention, and attention among text tokens.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Grid: TypeAlias = tuple[int, ...]  # (frames, height, width)
Inputs: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class VideoModel:
    """layers: patterns of the names of attention modules over [video], [text | video] or [video | text]. grid(config, inputs) ->
    (frames, height, width) in tokens, inputs being the arguments of forward by name. text: "none", "front" or "behind" the video; behind,
    an attention mask is taken for padding of the text. rising: timesteps rise while a video is made (Mochi), instead of falling."""

    layers: tuple[str, ...]
    grid: Callable[[Any, Inputs], Grid]
    text: str = "none"
    rising: bool = False


# What the forwards of diffusers call the timestep. Some models have none of their own (Cosmos3: one per token of each kind).
TIMESTEPS = ("timestep", "timesteps", "t", "timestep_ratio")


def timestep_name(names: Iterable[str]) -> str | None:
    """The argument of a forward that tells the timestep, or None."""
    names = set(names)
    return next((name for name in TIMESTEPS if name in names), None)


def _patches(size: Iterable[Any], patch: Iterable[int]) -> Grid:
    return tuple(n // p for n, p in zip(size, patch))


def _wan(config: Any, inputs: Inputs) -> Grid:
    return _patches(inputs["hidden_states"].shape[2:], config.patch_size)


def _hunyuan(config: Any, inputs: Inputs) -> Grid:
    return _patches(inputs["hidden_states"].shape[2:], (config.patch_size_t, config.patch_size, config.patch_size))


def _mochi(config: Any, inputs: Inputs) -> Grid:
    return _patches(inputs["hidden_states"].shape[2:], (1, config.patch_size, config.patch_size))


def _cogvideox(config: Any, inputs: Inputs) -> Grid:
    frames, _, height, width = inputs["hidden_states"].shape[1:]
    step = config.patch_size_t or 1
    return (frames + step - 1) // step, height // config.patch_size, width // config.patch_size


def _ltx(config: Any, inputs: Inputs) -> Grid:
    size = [inputs.get(name) for name in ("num_frames", "height", "width")]
    if None in size:
        raise ValueError("num_frames, height and width were not given to the transformer")
    return _patches(size, (config.patch_size_t, config.patch_size, config.patch_size))


_BLOCKS = "transformer_blocks.*.attn"
VIDEO_MODELS = {
    "WanTransformer3DModel": VideoModel(("blocks.*.attn1",), _wan),
    "WanVACETransformer3DModel": VideoModel(("blocks.*.attn1", "vace_blocks.*.attn1"), _wan),
    "SkyReelsV2Transformer3DModel": VideoModel(("blocks.*.attn1",), _wan),
    "HunyuanVideoTransformer3DModel": VideoModel((_BLOCKS, "single_" + _BLOCKS), _hunyuan, "behind"),
    "HunyuanVideo15Transformer3DModel": VideoModel((_BLOCKS,), _hunyuan, "behind"),
    "CogVideoXTransformer3DModel": VideoModel((_BLOCKS + "1",), _cogvideox, "front"),
    "LTXVideoTransformer3DModel": VideoModel((_BLOCKS + "1",), _ltx),
    "MochiTransformer3DModel": VideoModel((_BLOCKS + "1",), _mochi, "behind", rising=True),
}


def _no_video(config: Any, inputs: Inputs) -> Grid:
    raise ValueError("the model makes no video")


ANY_MODEL = VideoModel(("*",), _no_video)


def video_model(model: nn.Module) -> VideoModel | None:
    """The row of the model's class or of a class it derives from, or None."""
    return next((VIDEO_MODELS[c.__name__] for c in type(model).__mro__ if c.__name__ in VIDEO_MODELS), None)
