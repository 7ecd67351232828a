"""What the files hold and how close two results are: `aerogel inspect` and `aerogel compare` as calls. Neither needs torch."""
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from . import _core
from ._arrays import is_torch
from .ranks import rank_of

class InspectReport(dict[str, Any]):
    """The JSON of `aerogel inspect --json` as a dict; printing it gives the command's text with every layer listed.

    report["kind"] is "quantized", "diffusers" or "safetensors". A quantized pair has "layers" (name, scheme, shape, bytes, ...),
    "float_tensors", "schemes", "bits_per_weight", "problems" and "notes"; the others have "tensors" and "linear_layers"."""

    def __init__(self, values: dict[str, Any], text: str) -> None:
        super().__init__(values)
        self.text = text

    @property
    def problems(self) -> list[str]:
        """What is wrong with a quantized pair; empty when nothing is, and for float models."""
        return list(self.get("problems", []))

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


def inspect(path: str | PathLike[str], *, rank: int | None = None) -> InspectReport:
    """What a model, a quantized pair or any safetensors file holds, and what is wrong with it.

    path: a .safetensors (or .index.json), a diffusers or pipeline folder, a quant_model_description_*.json or its folder.
    rank: of the quantized files, see `aerogel.quantize`. Nothing is run. Returns an InspectReport; problems are in it, not raised.
    Raises OSError for files that cannot be read, ValueError for files that are none of these."""
    report = _core.inspect(fspath(path), rank_of(path, rank), True)
    return InspectReport(json.loads(report.json), report.text)


@dataclass(frozen=True)
class Comparison:
    """How far b is from the reference a, over all elements in double precision. psnr (dB) and ssim are None unless both are videos.

    cosine: a.b / (|a| |b|). relative_l1: sum|a-b| / sum|a|. relative_l2: |a-b| / |a|. largest: max|a-b|. ssim: Gaussian window 11x11,
    sigma 1.5 (Wang et al., IEEE TIP 2004)."""

    name: str
    psnr: float | None
    ssim: float | None
    cosine: float
    relative_l1: float
    relative_l2: float
    largest: float

    def __str__(self) -> str:
        video = "" if self.psnr is None or self.ssim is None else f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.4f}, "
        return (f"{self.name}: {video}cosine {self.cosine:.7f}, relative L1 {self.relative_l1:.3e}, relative L2 {self.relative_l2:.3e}, "
                f"largest {self.largest:.3e}")


def compare(a: Any, b: Any) -> Comparison | dict[str, Comparison]:
    """Measures how close b is to the reference a, with the figures of `aerogel compare`.

    Arrays (NumPy or torch, of one shape, any real type): a Comparison. float [3, frames, height, width] with values in [-1, 1] and
    uint8 [frames, height, width, 3] are videos and get PSNR and SSIM of their 8-bit pixels; a pipeline's frames in [0, 1] become
    such by `(frames * 255).round().astype("uint8")`.
    Paths of two videos (.mp4, .gif, a folder of PNG files, or a .safetensors with the tensor "video" beside one of these): a Comparison.
    Paths of two .safetensors, or two mappings of arrays such as state dicts: {name: Comparison}.
    Raises ValueError when names, shapes or kinds differ, OSError for files."""
    if isinstance(a, (str, PathLike)) and isinstance(b, (str, PathLike)):
        rows = [_row(row) for row in _core.compare_files(fspath(a), fspath(b))]
        return rows[0] if _shows_frames(a) or _shows_frames(b) else {row.name: row for row in rows}
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            raise ValueError(f"[compare] {sorted(a.keys() ^ b.keys())[0]!r} is on one side only")
        return {name: _arrays(name, a[name], b[name]) for name in a}
    if isinstance(a, (str, PathLike, Mapping)) or isinstance(b, (str, PathLike, Mapping)):
        raise ValueError(f"[compare] a and b must be of one kind, two paths, two mappings or two arrays; got {type(a).__name__} and "
                         f"{type(b).__name__}")
    return _arrays("array", a, b)


def _shows_frames(path: str | PathLike[str]) -> bool:
    return Path(path).suffix in (".mp4", ".gif") or Path(path).is_dir()


def _arrays(name: str, a: Any, b: Any) -> Comparison:
    return _row(_core.compare_arrays(name, _plain(name, a), _plain(name, b)))


def _row(row: _core.Comparison) -> Comparison:
    return Comparison(row.name, row.psnr, row.ssim, row.cosine, row.relative_l1, row.relative_l2, row.largest)


def _plain(name: str, array: Any) -> Any:
    """Contiguous in CPU memory; floats as float32."""
    if is_torch(array):
        if array.device.type == "meta":
            raise ValueError(f"[compare] {name} is on the meta device and holds no values")
        array = array.detach().cpu()
        return (array.float() if array.is_floating_point() else array).contiguous()
    array = np.ascontiguousarray(array).reshape(np.shape(array))
    if array.dtype.kind not in "biuf":
        raise ValueError(f"[compare] {name} must hold real numbers, got {array.dtype}")
    return array.astype(np.float32) if array.dtype.kind == "f" else array
