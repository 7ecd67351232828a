"""export(model, directory): writes the quantized files of a checkpoint or of a model in memory, layer after layer."""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from . import _core
from ._values import group, switch, whole, word, words
from .calibration import Calibration
from .ranks import current_rank

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int, str], object]  # bytes done, bytes in all, name of the tensor


@dataclass(frozen=True)
class ExportedLayer:
    """One quantized layer: its name, its size, |W - dequantized| / |W| and the columns that share a weight scale (0: the whole row)."""

    name: str
    out_features: int
    in_features: int
    relative_error: float
    group_size: int = 0


@dataclass(frozen=True)
class ExportReport:
    """The two files (layout "comfy": one, and no description), what became of each quantized layer, and the bytes of all tensors before and after."""

    description: str
    weights: str
    scheme: str
    layers: list[ExportedLayer]
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        worst = max(self.layers, key=lambda layer: layer.relative_error)
        groups = max(layer.group_size for layer in self.layers)
        return (f"{len(self.layers)} {self.scheme}{f' in groups of {groups}' if groups else ''}: {self.bytes_before / 1e6:.1f} MB -> {self.bytes_after / 1e6:.1f} MB, largest relative "
                f"weight error {worst.relative_error:.2e} ({worst.name})\n{self.weights}" + (f"\n{self.description}" if self.description else ""))


def export(model: str | PathLike[str] | nn.Module, directory: str | PathLike[str], scheme: str = "W8A8_DYNAMIC", *,
           include: str | Iterable[str] | None = None, exclude: str | Iterable[str] = (), algorithm: str = "minmax", group_size: int | None = None,
           asymmetric: bool = False, packed: bool = False, rotate: int | str = 0, low_rank: int = 0, layout: str | None = None,
           calibration: Calibration | str | PathLike[str] | None = None, rank: int | None = None,
           progress: bool | Callable[[int, int, str], object] = True) -> ExportReport:
    """Writes `quant_model_description_{scheme}.json` and `quant_model_weight_{scheme}.safetensors` into `directory` (made when missing),
    as `aerogel quantize` does; `aerogel.quantize(model, directory)` and MindIE SD read them.

    model: a checkpoint (.safetensors, .safetensors.index.json, .gguf, diffusers or pipeline folder), read tensor by tensor so that memory
    stays at one layer's size, or an nn.Module, whose Linear layers are quantized from memory. Weights float32, bfloat16 or float16.
    scheme: see `aerogel.schemes()`; those that need calibration take it from `calibration`, an `aerogel.Calibration` or its file.
    include, exclude: patterns of layer names (`*`, `?`, `[ab]`, `{a,b}`), exclude wins; by default what `aerogel.quantize` (nn.Module)
    and `aerogel quantize` (checkpoint) choose. algorithm: how stored values are chosen, see docs/algorithms.md. group_size: columns that
    share a scale, 0 = the whole row, None = the scheme's default (64, or 32, for int4 weights where they divide the columns; the whole row
    in layout v0). asymmetric: scales with offsets. packed: two int4 values per byte. rotate: columns per Hadamard
    transform of weights and inputs, a power of two (-1 = the largest that divides the columns), or "convrot" or "convrot:COLUMNS", the
    rotation of ComfyUI's files (a power of four). low_rank: rank of a float branch beside the
    quantized residual.
    layout: "v0" (the older exporter's tensors and types), "v1" (float32 scales), or "comfy", one file as ComfyUI reads it, without a
    description (`directory` may then be the .safetensors file itself); None: "v1" where that layout can hold the scheme
    (docs/files.md). rank: `_{rank}` is put at the end of both file names; None: this process's rank where torch.distributed is initialized,
    else none; -1: none.
    progress: True shows a tqdm bar where there is a terminal or a notebook, or a function of (bytes done, bytes in all, tensor name).

    The files appear complete or not at all, also when the progress function raises or Ctrl-C interrupts. For a checkpoint, what was
    finished stays beside them as "*.part", and the same call continues from it; for a module nothing stays. Returns an ExportReport.
    Raises ValueError (what does not fit, with the layer's name), NotImplementedError (a scheme that is not supported), OSError (files)."""
    how = _core.LayerOptions(
        scheme=word("export", "scheme", scheme), algorithm=word("export", "algorithm", algorithm), group_size=group("export", group_size),
        asymmetric=switch("export", "asymmetric", asymmetric), packed=switch("export", "packed", packed), rotate=str(rotate),
        low_rank=whole("export", "low_rank", low_rank, 0))
    rank = current_rank() if rank is None else whole("export", "rank", rank, -1)
    checkpoint, layers = _chosen(model, rank, include, exclude)
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = Calibration.load(calibration)
    with _reporter(progress) as report:
        done = _core.export(checkpoint, layers, how, folder=fspath(directory), rank=rank, layout=layout, progress=report,
                            calibration=None if calibration is None else calibration._core)
    exported = [ExportedLayer(i.name, i.out_features, i.in_features, i.relative_error, i.group_size) for i in done.layers]
    return ExportReport(done.description, done.weights, done.layers[-1].quant_type if exported else "", exported, done.bytes_before,
                        done.bytes_after)


def _chosen(model: Any, rank: int, include: Any, exclude: Any) -> tuple[_core.FloatModel, list[str]]:
    """The float tensors, and the names of the layers to quantize."""
    if not isinstance(model, (str, PathLike)):
        return _from_module(model, include, exclude)
    checkpoint = _core.FloatModel.open(fspath(model), rank)
    chosen = [checkpoint.default_layers] if include is None else words("export", "include", include)
    return checkpoint, _core.select_layers(checkpoint.linear_layers(), chosen, words("export", "exclude", exclude))


def _from_module(model: Any, include: Any, exclude: Any) -> tuple[_core.FloatModel, list[str]]:
    from .layer_choice import chosen_linears, unwrapped, without_adapters

    model = unwrapped(model)
    linears = chosen_linears(model, include, exclude)
    state = model.state_dict()
    plain, tensors = without_adapters(state), {}
    if plain.keys() != state.keys():
        warnings.warn("[export] adapters are left out unless they are merged (fuse_lora)", RuntimeWarning, stacklevel=4)
    for name, tensor in plain.items():
        if tensor.device.type == "meta":
            raise ValueError(f"[export] {name} is on the meta device and holds no values: load the model's weights first")
        tensors[name] = tensor.detach().cpu().contiguous()
    return _core.FloatModel.of_tensors(type(model).__name__, tensors), list(linears)


@contextmanager
def _reporter(progress: bool | Progress) -> Iterator[Progress | None]:
    """progress: a function of (done, total, name); True: a bar if tqdm is installed, on rank 0; False: nothing."""
    if not isinstance(progress, bool):
        if not callable(progress):
            raise ValueError(f"[export] progress must be True, False or a function of (done, total, name), got {progress!r}")
        yield progress
        return
    bar = _bar() if progress and current_rank() <= 0 else None
    if bar is None:
        yield None
        return

    def report(done: int, total: int, name: str) -> None:
        bar.total = total
        bar.set_postfix_str(name, refresh=False)
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        bar.close()


def _bar() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    # None: no bar where stderr is no terminal; notebooks always have one.
    return tqdm(desc="export", unit="B", unit_scale=True, disable=None)
