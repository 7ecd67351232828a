"""How diffusers' video transformers lay out their tokens: which layers attend over the video, its latent shape, and where the text is.

To add a model, add a row. A layer that is not named stays as it is: cross attention, and attention among text tokens.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import nn

Grid: TypeAlias = tuple[int, ...]  # (frames, height, width)
Inputs: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class VideoModel:
    """layers: patterns of the names of attention modules over [video], [text | video] or [video | text]. grid(config, inputs) ->
    (frames, height, width) in tokens, inputs being the arguments of forward by name. text: "none", "front" or "behind" the video; behind,
    an attention mask is taken for padding of the text. rising: timesteps rise while a video is made (Mochi), instead of falling.
    spans(config, inputs) -> [(first token, grid), ...], where a sequence holds several videos or other tokens on both sides of one: instead of
    grid, and with text "behind". Grids raise ValueError where the tokens are no video in order."""

    layers: tuple[str, ...]
    grid: Callable[[Any, Inputs], Grid]
    text: str = "none"
    rising: bool = False
    spans: Callable[[Any, Inputs], list[tuple[int, Grid]]] | None = None


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


def _easyanimate(config: Any, inputs: Inputs) -> Grid:
    return _patches(inputs["hidden_states"].shape[2:], (1, config.patch_size, config.patch_size))


def _kandinsky(config: Any, inputs: Inputs) -> Grid:
    return _patches(inputs["hidden_states"].shape[1:4], config.patch_size)


def _framepack(config: Any, inputs: Inputs) -> list[tuple[int, Grid]]:
    """The history of earlier frames stands before the video, in three resolutions."""
    history = 0
    for name, indices, patch in (("latents_clean", "indices_latents_clean", (1, 2, 2)), ("latents_history_2x", "indices_latents_history_2x", (2, 4, 4)),
                                 ("latents_history_4x", "indices_latents_history_4x", (4, 8, 8))):
        if inputs.get(name) is not None and inputs.get(indices) is not None:
            history += prod(-(-n // p) for n, p in zip(inputs[name].shape[2:], patch))
    return [(history, _hunyuan(config, inputs))]


def _grids(positions: Any) -> list[tuple[int, Grid]]:
    """[(first row, grid)] of rows of (t, h, w) that are whole grids one after the other, each in ascending order."""
    before, after = positions[:-1], positions[1:]
    differs = before != after
    first = differs.int().argmax(-1, keepdim=True)  # axis of the first difference
    ascends = (differs.any(-1) & (after > before).gather(-1, first)[:, 0]).tolist()
    starts = [0, *(i + 1 for i, rises in enumerate(ascends) if not rises)]
    grids = []
    for start, end in zip(starts, [*starts[1:], len(positions)]):
        rows = positions[start:end]
        grid = tuple(int(axis.unique().numel()) for axis in rows.unbind(-1))
        if prod(grid) != len(rows):
            raise ValueError("the rows of the video are no whole grid in order")
        grids.append((start, grid))
    return grids


def _minimax_h3(config: Any, inputs: Inputs) -> list[tuple[int, Grid]]:
    """Rows of video lie anywhere among those of text and sound. A run of neighbouring rows holds one grid or several."""
    places, positions = inputs["video_indices"], inputs["position_ids"]
    ends = [0, *((places[1:] != places[:-1] + 1).nonzero()[:, 0] + 1).tolist(), len(places)]
    spans = []
    for start, end in zip(ends, ends[1:]):
        first = int(places[start])
        spans += [(first + row, grid) for row, grid in _grids(positions[first : first + end - start])]
    return spans


def _no_grid(config: Any, inputs: Inputs) -> Grid:
    raise ValueError("the model has spans")


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
    "WanAnimateTransformer3DModel": VideoModel(("blocks.*.attn1",), _wan),
    "ChronoEditTransformer3DModel": VideoModel(("blocks.*.attn1",), _wan),
    "HunyuanVideoFramepackTransformer3DModel": VideoModel((_BLOCKS, "single_" + _BLOCKS), _no_grid, "behind", spans=_framepack),
    "LTX2VideoTransformer3DModel": VideoModel((_BLOCKS + "1",), _ltx),
    "AllegroTransformer3DModel": VideoModel((_BLOCKS + "1",), _hunyuan),
    "EasyAnimateTransformer3DModel": VideoModel((_BLOCKS + "1",), _easyanimate, "front"),
    "CosmosTransformer3DModel": VideoModel((_BLOCKS + "1",), _wan),
    "Kandinsky5Transformer3DModel": VideoModel(("visual_transformer_blocks.*.self_attention",), _kandinsky),
    "MiniMaxH3Transformer3DModel": VideoModel((_BLOCKS,), _no_grid, "behind", spans=_minimax_h3),
}
# Video models whose attention cannot be sparse, and why.
NOT_SPARSE = {
    "SanaVideoTransformer3DModel": "its self-attention is linear: there are no scores of which blocks could be left out",
    "Cosmos3OmniTransformer": "its tokens attend to those of the prompt, which are computed by themselves before, so that queries and keys are not the same",
}


def _no_video(config: Any, inputs: Inputs) -> Grid:
    raise ValueError("the model makes no video")


ANY_MODEL = VideoModel(("*",), _no_video)


def attention_identifiers(model: nn.Module) -> list[str]:
    """The names of all attention layers of a model as regular expressions, for `TaylorSeerCacheConfig(cache_identifiers=...)`: diffusers' own patterns
    must match a whole name and end in "attn", so they find no attn1, attn2 or self_attention."""
    return [re.escape(name) for name, module in model.named_modules() if getattr(module, "processor", None) is not None]


def video_model(model: nn.Module) -> VideoModel | None:
    """The row of the model's class or of a class it derives from, or None."""
    return next((VIDEO_MODELS[c.__name__] for c in type(model).__mro__ if c.__name__ in VIDEO_MODELS), None)
