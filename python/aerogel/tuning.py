"""tune(model, inputs): which scheme for which layer, within a budget of error or size."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from . import _core
from ._loading import float_arrays
from ._values import whole
from .layer_choice import at, chosen_linears, put, unwrapped
from .linear import QuantizedLinear
from .quantization import take_over, tell_libraries

Progress = Callable[[int, int, str], object]  # measurements done, at most, what is measured next


@dataclass
class TuneReport:
    """What `tune` found. error: |v - v of float| / |v of float| of the model's output, of the worst group of steps; errors: of each.
    schemes: {layer: scheme}, "FLOAT" for those that stay. bytes: of all parameters, with int4 packed. uniform: {scheme: (bytes, error)} of the
    model with this scheme in all its layers. least_bytes: no mixture whose layers' errors add up to as much is smaller."""

    error: float
    errors: list[float]
    bytes_before: int
    bytes: int
    schemes: dict[str, str]
    uniform: dict[str, tuple[int, float]]
    least_bytes: float
    alone: dict[str, dict[str, list[float]]] = field(repr=False, default_factory=dict)  # {layer: {scheme: errors with it alone}}
    _choices: dict[str, _core.LayerChoice] = field(repr=False, default_factory=dict)

    def quantize(self, model: nn.Module) -> None:
        """Replaces the layers of `model`, the one that was tuned or a copy of it, in place."""
        model = unwrapped(model)
        linears = {name: at(model, name) for name in self._choices}
        names = _names_of(model, linears.values())
        for name, linear in linears.items():
            layer = _layer(self._choices[name], linear)
            take_over(linear, layer)
            for place in names[id(linear)]:
                put(model, place, layer)
        tell_libraries(model)

    def write(self, recipe: str | PathLike[str]) -> None:
        """The recipe (YAML) for `aerogel quantize --recipe`. Raises OSError."""
        comment = [f"Made by aerogel.tune: {self.bytes / 1e6:.2f} MB instead of {self.bytes_before / 1e6:.2f}, error {self.error:.4f}."]
        _core.write_recipe(fspath(recipe), self._choices, comment)

    def __str__(self) -> str:
        rows = [(f"all {name}", size, error) for name, (size, error) in self.uniform.items()] + [("chosen", self.bytes, self.error)]
        return "\n".join(f"{name:<28} {size / 1e6:>9.2f} MB {error:>10.4f}" for name, size, error in rows)


def tune(model: nn.Module, inputs: Sequence[Mapping[str, Any]], *, max_error: float | None = None, max_size: int | None = None,
         recipe: str | PathLike[str] | None = None, schemes: Iterable[str] = ("W8A8_DYNAMIC", "W4A8"), include: str | Iterable[str] | None = None,
         exclude: str | Iterable[str] = (), step_groups: int = 3, measurements: str | PathLike[str] | None = None,
         progress: Progress | None = None) -> TuneReport:
    """Measures how much each Linear layer of `model` hurts in each scheme, and finds the mixture of least bytes whose error is at most
    `max_error` in every group of steps, or that of least error with at most `max_size` bytes. Give one of the two.

    model: an nn.Module; it is left as it was. inputs: keyword arguments of its forward passes, recorded while the model made
    videos, in the order of the steps; they are cut into `step_groups` groups of equally many. Its output is a tensor, the first item of a tuple,
    or has `.sample`. schemes: SCHEME[/ALGORITHM][/GROUP], such as "W4A16/ssz/32", that needs no data. include, exclude: as in
    `aerogel.quantize`. recipe: a file to write, for `aerogel quantize --recipe`. measurements: a file that keeps what was measured: an interrupted
    call continues there, and another budget costs a few measurements. progress: called before each measurement with (done, at most, what).

    Every layer is measured alone with every scheme, a search picks a mixture whose squared errors add up to the budget, and the mixture itself
    is measured and corrected until it keeps it (`aerogel tune` decides by the same code). Raises ValueError where no mixture keeps the budget,
    nothing is left to tune or values do not fit, NotImplementedError for schemes with calibrated ranges, OSError for files."""
    model = unwrapped(model)
    step_groups = whole("tune", "step_groups", step_groups)
    if not 1 <= step_groups <= len(inputs):
        raise ValueError(f"[tune] step_groups must be 1 .. {len(inputs)} (the inputs), got {step_groups}")
    ways = [_core.TuneScheme(text) for text in schemes]
    data = [way.name for way in ways if way.needs_inputs]
    if data:
        raise ValueError(f"[tune] {data[0]} looks at inputs of the layers, which only the command `aerogel tune` does")
    session = _Session(model, inputs, step_groups, chosen_linears(model, include, exclude), ways)
    found = session.run(max_error, max_size, "" if measurements is None else fspath(measurements), progress)
    if recipe is not None:
        found.write(recipe)
    return found


class _Session:
    def __init__(self, model: nn.Module, inputs: Sequence[Mapping[str, Any]], groups: int, linears: Mapping[str, nn.Module],
                 ways: list[_core.TuneScheme]) -> None:
        self.model, self.inputs = model, inputs
        self.group = [i * groups // len(inputs) for i in range(len(inputs))]
        self.linears = _once(linears)
        self.names = _names_of(model, linears.values())
        self.choices: list[list[tuple[str, _core.LayerChoice]]] = []
        for name, linear in self.linears.items():
            arrays = _checkpoint_arrays(linear)
            of_layer = [(way.name, way.of_layer(name, *arrays)) for way in ways]
            self.choices.append([(text, choice) for text, choice in of_layer if choice is not None])
        self.current = [0] * len(self.linears)
        self.whole = sum(p.numel() * p.element_size() for p in model.parameters())
        self.reference = self._outputs()

    def run(self, max_error: float | None, max_size: int | None, measurements: str, progress: Progress | None) -> TuneReport:
        tuned = [sum(p.numel() * p.element_size() for p in linear.parameters()) for linear in self.linears.values()]
        modules = [(name, [("FLOAT", float(size)), *((text, float(choice.bytes)) for text, choice in choices)])
                   for name, size, choices in zip(self.linears, tuned, self.choices)]
        try:
            found = _core.tune(modules, fixed_bytes=float(self.whole - sum(tuned)), max_error=max_error,
                               max_size=None if max_size is None else float(max_size), measure=self._errors, progress=progress,
                               measurements=measurements, subject=self._subject())
        finally:
            self._take([0] * len(self.linears))
        best = found["best"]
        taken = {name: modules[i][1][best["choices"][i]][0] for i, name in enumerate(self.linears)}
        return TuneReport(max(best["errors"]), best["errors"], self.whole, round(best["bytes"]), taken,
                          {row["name"]: (round(row["bytes"]), max(row["errors"])) for row in found["uniform"]}, found["least_bytes"],
                          {name: {text: errors for (text, _), errors in zip(modules[i][1], found["alone"][i])} for i, name in enumerate(self.linears)},
                          {name: self.choices[i][best["choices"][i] - 1][1] for i, name in enumerate(self.linears) if best["choices"][i]})

    def _subject(self) -> str:
        return f"{self.group[-1] + 1} groups of {len(self.inputs)} inputs, outputs {_core.hash_arrays(self.reference)}"

    def _take(self, mixture: Sequence[int]) -> None:
        for i, linear in enumerate(self.linears.values()):
            if mixture[i] != self.current[i]:
                layer = linear if mixture[i] == 0 else _layer(self.choices[i][mixture[i] - 1][1], linear)
                for place in self.names[id(linear)]:
                    put(self.model, place, layer)
                self.current[i] = mixture[i]

    @torch.no_grad()
    def _outputs(self) -> list[torch.Tensor]:
        results = []
        for arguments in self.inputs:
            out = self.model(**arguments)
            tensor = out if isinstance(out, torch.Tensor) else getattr(out, "sample", None)
            tensor = out[0] if tensor is None else tensor
            results.append(tensor.detach().float().cpu().contiguous().clone())
        return results

    def _errors(self, mixture: Sequence[int]) -> list[float]:
        self._take(mixture)
        error, norm = [0.0] * (self.group[-1] + 1), [0.0] * (self.group[-1] + 1)
        for group, out, wanted in zip(self.group, self._outputs(), self.reference):
            error[group] += float((out - wanted).double().square().sum())
            norm[group] += float(wanted.double().square().sum())
        return [math.sqrt(e / max(n, 1e-300)) for e, n in zip(error, norm)]


def _once(linears: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Without the further names of modules that have several."""
    first: dict[int, str] = {}
    for name, linear in linears.items():
        first.setdefault(id(linear), name)
    return {name: linears[name] for name in first.values()}


def _names_of(model: nn.Module, linears: Iterable[nn.Module]) -> dict[int, list[str]]:
    """id of each of these modules -> all its names in the model."""
    names: dict[int, list[str]] = {id(linear): [] for linear in linears}
    for name, module in model.named_modules(remove_duplicate=False):
        if id(module) in names:
            names[id(module)].append(name)
    return names


def _checkpoint_arrays(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    bias = getattr(linear, "bias", None)
    weight, bias = float_arrays(linear.weight, bias)
    return weight, bias


def _layer(choice: _core.LayerChoice, linear: nn.Module) -> QuantizedLinear:
    return QuantizedLinear(choice.quantize(*_checkpoint_arrays(linear))).beside(linear)
