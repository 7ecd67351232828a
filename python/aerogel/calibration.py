"""calibrate(model, run): measures the inputs of Linear layers, for schemes whose activation scales are fixed beforehand."""
from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from . import _core
from ._values import whole, word
from .timestep import TimestepManager

if TYPE_CHECKING:
    import torch
    from torch import nn


class Calibration:
    """Input ranges of Linear layers, forward by forward and step by step; made by `aerogel.calibrate`, or read from a file.

    For each layer and step it keeps the sums over forwards of the smallest and the largest input value, and the number of forwards: 24
    bytes a step, however much data there is. Its files are those of `aerogel quantize --save-calibration` and `--calibration`."""

    def __init__(self, core: _core.CalibrationStats) -> None:
        self._core = core

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Reads a file written by save(). Raises OSError, ValueError."""
        return cls(_core.CalibrationStats.load(fspath(path)))

    def save(self, path: str | PathLike[str]) -> None:
        """Writes a .safetensors file, complete or not at all. Raises OSError."""
        self._core.save(fspath(path))

    def merge(self, *others: Calibration) -> Calibration:
        """A new calibration of all that this one and the others measured, on other samples, in other processes or of other layers.
        Raises ValueError when the numbers of steps differ."""
        merged = _core.CalibrationStats(self.steps)
        for one in (self, *others):
            merged.merge(one._core)
        return Calibration(merged)

    @property
    def steps(self) -> int:
        """Number of sampling steps that are distinguished; 1 for a calibration without steps."""
        return self._core.steps

    @property
    def layers(self) -> list[str]:
        """Names of the measured layers, sorted."""
        return self._core.layers()

    def forwards(self, layer: str) -> list[int]:
        """Number of forwards of the layer in each step. Raises ValueError when it never ran."""
        return self._core.forwards(layer)

    def ranges(self, layer: str) -> list[tuple[float, float]]:
        """(min, max) that W8A8_TIMESTEP uses in each step: the mean over the forwards of this step and all later ones of the smallest
        and the largest value. W8A8 uses the first. Raises ValueError when the layer never ran."""
        return self._core.ranges(layer)

    def __contains__(self, layer: str) -> bool:
        return self._core.contains(layer)

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        return f"Calibration({len(self)} layers, {self.steps} step{'s' if self.steps != 1 else ''})"

    def __str__(self) -> str:
        rows = [f"{name:<48} {low:>12.5g} {high:>12.5g} {sum(self.forwards(name)):>9}"
                for name in self.layers for low, high in [self.ranges(name)[0]]]
        return "\n".join([repr(self), f"{'layer':<48} {'mean min':>12} {'mean max':>12} {'forwards':>9}", *rows])


class _Recorder:
    """Hooks on the layers. The statistics begin with the first forward, when the number of steps is known."""

    def __init__(self, scheme: str, steps: int | None) -> None:
        self.scheme = scheme
        self.stats: _core.CalibrationStats | None = None
        self.per_step = _core.scheme_row(scheme).per_step
        self.steps = steps if steps is not None or self.per_step else 1

    def hook(self, name: str) -> Callable[..., None]:
        def observe(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            if x.numel():
                self._statistics().observe(name, self._step(), _extremes(name, x))

        return observe

    def _statistics(self) -> _core.CalibrationStats:
        if self.stats is None:
            steps = self.steps if self.steps is not None else TimestepManager.get_timestep_idx_max()
            if steps is None:
                raise ValueError("[calibrate] the number of sampling steps is not known: give steps=, or let the run call "
                                 "TimestepManager.set_timestep_idx_max (aerogel.timestep_callback does)")
            self.stats = _core.CalibrationStats(steps)
        return self.stats

    def _step(self) -> int:
        step = TimestepManager.get_timestep_idx()
        if step is None and self.per_step:
            raise ValueError(f"[calibrate] {self.scheme} needs the sampling step of each forward: let the run call "
                             "TimestepManager.set_timestep_idx before each step (aerogel.timestep_callback does)")
        return 0 if step is None or self.steps == 1 else step


def _extremes(name: str, x: torch.Tensor) -> torch.Tensor:
    """float32 [2] on the CPU: the smallest and the largest value, NaN when there is one. Taken where x lies, so that activations on
    other devices are not copied."""
    if x.device.type == "meta":
        raise ValueError(f"[calibrate] the input of {name} is on the meta device and holds no values")
    import torch

    return torch.stack(x.detach().aminmax()).float().cpu()


def calibrate(model: nn.Module, run: Callable[..., object], scheme: str = "W8A8", *, include: str | Iterable[str] | None = None,
              exclude: str | Iterable[str] = (), steps: int | None = None, map: Iterable[type] | None = None) -> Calibration:
    """Runs the model and measures the inputs of its Linear layers; `aerogel.export(..., calibration=)` takes the result.

    model: any nn.Module, on any device; it is not changed, hooks are removed at the end. run: a function that runs the model (or the
    pipeline around it) over samples, called once without gradients as run() or, if it takes an argument, run(model).
    scheme: "W8A8" or "W4A4_STATIC" (one range per layer) or "W8A8_TIMESTEP" (one per sampling step, which `TimestepManager` knows;
    `aerogel.timestep_callback` sets it for diffusers). steps: number of sampling steps; by default `TimestepManager`'s for
    W8A8_TIMESTEP and 1 for the others, which do not distinguish steps. include, exclude, map: layers, as in `aerogel.quantize`.

    A range is the mean over forwards of the smallest and the largest value, not the extremes (docs/quantization.md); empty inputs do not
    count. A warning names layers that never ran. Raises ValueError for inputs that are not finite, a scheme that needs no
    calibration, an unknown step, or when nothing ran; errors that `run` raises are passed on."""
    from .layer_choice import chosen_linears, unwrapped

    row = _core.scheme_row(word("calibrate", "scheme", scheme))
    steps = None if steps is None else whole("calibrate", "steps", steps, 1)
    if not row.needs_calibration:
        raise ValueError(f"[calibrate] {row.name} needs no calibration: export it as it is")
    if not callable(run):
        raise ValueError(f"[calibrate] run must be a function that runs the model, got {type(run).__name__}")
    from torch import nn, no_grad

    linears = chosen_linears(unwrapped(model), include, exclude, (nn.Linear, *(map or ())))
    recorder = _Recorder(row.name, steps)
    hooks = [module.register_forward_pre_hook(recorder.hook(name), with_kwargs=True) for name, module in linears.items()]
    try:
        with no_grad():
            run(model) if _takes_model(run) else run()
    finally:
        for hook in hooks:
            hook.remove()
    if recorder.stats is None:
        raise ValueError(f"[calibrate] run never ran any of the {len(linears)} layers of {type(model).__name__}")
    return _finished(recorder.stats, list(linears))


def _takes_model(run: Callable[..., object]) -> bool:
    try:
        inspect.signature(run).bind()
    except TypeError:
        return True
    except ValueError:  # a builtin without a signature
        return False
    return False


def _finished(stats: _core.CalibrationStats, names: list[str]) -> Calibration:
    silent = [name for name in names if not stats.contains(name)]
    if silent:
        warnings.warn(f"[calibrate] {len(silent)} of {len(names)} layers never ran ({', '.join(silent[:3])}{' ...' if silent[3:] else ''}): "
                      "exclude them from the export", RuntimeWarning, stacklevel=3)
    return Calibration(stats)
