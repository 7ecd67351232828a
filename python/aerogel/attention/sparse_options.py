"""From the keywords of `sparse_attention` to the structs of the core, whose table says which types and parameters there are. What only the
core can judge is left to it."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import _core
from .._arrays import Array, as_float_array
from .._values import number, switch, whole, word
from .arguments import block_mask, mxfp4_scale, positive_scale

_OP = "sparse_attention"
_KINDS: dict[type, Callable[[str, str, Any], Any]] = {bool: switch, int: whole, float: number}
TYPES = {row.name: row for row in _core.sparse_types()}
SPARSE_TYPES = tuple(name for name in TYPES if name != "none")
PARAMETERS: dict[str, Any] = {name: getattr(_core.SparsePattern("none"), name) for name in _core.sparse_parameters()}
_OF_ANY_TYPE = ("sparsity", "block_size", "cdf_threshold", "keep_sink", "keep_recent")  # in MindIE SD's signature: types pass over what is not theirs
FURTHER: dict[str, Any] = {
    "mask": None, "cached_mask": None, "precision": "none", "video_spans": None, "return_mask": False, "return_report": False,
    "txt_first": True, "q_rot": None, "k_rot": None, "mxfp4_scale_alg": None, "mxfp4_dst_type_max": 0.0,
    **{name: default for name, default in PARAMETERS.items() if name not in _OF_ANY_TYPE}}


def further_keywords(given: dict[str, Any]) -> dict[str, Any]:
    """FURTHER with what is given. TypeError for any other keyword."""
    if unknown := sorted(given.keys() - FURTHER.keys()):
        raise TypeError(f"sparse_attention() got unexpected keyword arguments: {', '.join(unknown)}; it knows further: {', '.join(FURTHER)}")
    return {**FURTHER, **given}


def _triple(name: str, shape: Sequence[int] | None) -> tuple[int, int, int]:
    if shape is None or isinstance(shape, str) or not hasattr(shape, "__len__") or len(shape) != 3:
        raise ValueError(f"[sparse_attention] {name} must be (frames, height, width) in tokens, got {shape}")
    frames, height, width = (whole(_OP, name, n) for n in shape)
    return frames, height, width


def _spans(spans: Iterable[Any]) -> list[tuple[int, tuple[int, int, int]]]:
    """[(start, (frames, height, width)), ...] of [{"start": .., "latent_shape" or "latent_grid": .., "role": anything}, ...]."""
    result = []
    for span in spans:
        grids = [span[key] for key in ("latent_shape", "latent_grid") if key in span] if isinstance(span, dict) else []
        if len(grids) != 1 or "start" not in span or span.keys() - {"start", "latent_shape", "latent_grid", "role"}:
            raise ValueError(f'[sparse_attention] video_spans must be a list of {{"start": .., "latent_shape": [T, H, W]}}, got {span}')
        result.append((whole(_OP, "start of video_spans", span["start"]), _triple("latent_shape of video_spans", grids[0])))
    if not result:
        raise ValueError("[sparse_attention] video_spans must name at least one video; pass None where there is none")
    return result


def _layout(options: dict[str, Any]) -> _core.VideoLayout:
    """Where the videos are."""
    spans, txt_len, shapes = options["video_spans"], whole(_OP, "txt_len", options["txt_len"]), [options["latent_shape_q"], options["latent_shape_k"]]
    row = TYPES[options["sparse_type"] or "none"]
    if not row.predicts:
        return _core.VideoLayout()
    if spans is not None:
        if shapes != [None, None] or txt_len:
            raise ValueError("[sparse_attention] video_spans stand instead of latent_shape_q, latent_shape_k and txt_len; give one of them")
        return _core.VideoLayout(spans=_spans(spans))
    txt_first = switch(_OP, "txt_first", options["txt_first"])
    if not row.needs_video:
        return _core.VideoLayout(txt_len=txt_len, txt_first=txt_first)
    latent, latent_k = (_triple(name, shapes[i] if shapes[i] is not None else shapes[1 - i])
                        for i, name in enumerate(("latent_shape_q", "latent_shape_k")))
    return _core.VideoLayout(latent=latent, latent_k=latent_k, txt_len=txt_len, txt_first=txt_first)


def _pattern(options: dict[str, Any]) -> _core.SparsePattern:
    pattern = _core.SparsePattern(options["sparse_type"] or "none")
    row = TYPES[pattern.type]
    for name, default in PARAMETERS.items():
        if options[name] is None:
            continue
        value = _KINDS[type(default)](_OP, name, options[name])
        if name not in _OF_ANY_TYPE or row.looks_at(name):
            setattr(pattern, name, value)
    return pattern


def settings(options: dict[str, Any], layout: str = "BNSD", stream: int = 0) -> tuple[_core.SparsePattern, _core.SparseCallOptions]:
    """What holds for calls of every size."""
    if options["sparse_type"] is not None and options["sparse_type"] not in SPARSE_TYPES:
        raise ValueError(f"[sparse_attention] sparse_type must be None, {', '.join(SPARSE_TYPES)}, got {options['sparse_type']!r}")
    pattern = _pattern(options)
    rotations = {name: as_float_array(_OP, name, options[key])
                 for name, key in (("q_rotation", "q_rot"), ("k_rotation", "k_rot")) if options[key] is not None}
    return pattern, _core.SparseCallOptions(
        layout=layout, scale=positive_scale(_OP, options["scale"]), causal=switch(_OP, "is_causal", options["is_causal"]),
        precision=word(_OP, "precision", options["precision"]), **rotations, stream=stream,
        **mxfp4_scale(_OP, options["mxfp4_scale_alg"], options["mxfp4_dst_type_max"]))


class SparseCall:
    """The keywords of `sparse_attention`, all of them, as the core has them: pattern, video, options, and mask, a given one or None."""

    def __init__(self, options: dict[str, Any], layout: str, stream: int, device: Any = None) -> None:
        self.pattern, self.options = settings(options, layout, stream)
        self.mask, self.video = _given_mask(options, device), _layout(options)


def _given_mask(options: dict[str, Any], device: Any) -> Array | None:
    """The one mask that is given, if any, under the name that goes with the pattern."""
    sparse_type = options["sparse_type"]
    given = [name for name in ("attn_mask", "mask", "cached_mask") if options[name] is not None]
    if not given:
        return None
    if len(given) > 1:
        raise ValueError(f"[sparse_attention] {' and '.join(given)} are both masks; give one")
    if (given[0] == "cached_mask") != (sparse_type is not None):
        names = [row.name for row in TYPES.values() if row.predicts and row.takes_mask]
        raise ValueError(f"[sparse_attention] sparse_type {sparse_type!r} does not go with {given[0]}: attn_mask or mask stand alone, with "
                         f"sparse_type None; cached_mask stands in for the mask of {', '.join(names[:-1])} or {names[-1]}")
    return block_mask("sparse_attention", given[0], options[given[0]], device)
