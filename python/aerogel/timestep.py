"""Which sampling step runs now, and what timestep-aware layers do in each step."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cache
from typing import Any, Self

from . import _core
from ._values import whole

step_index: ContextVar[int | None] = ContextVar("aerogel_timestep_idx", default=None)
step_count: ContextVar[int | None] = ContextVar("aerogel_timestep_idx_max", default=None)


class TimestepManager:
    """The current sampling step, 0-based, held per execution context (threads and asyncio tasks do not see each other's).

    Pipelines call `TimestepManager.set_timestep_idx(i)` before step i; see `aerogel.timestep_callback` for diffusers."""

    @staticmethod
    def set_timestep_idx(index: int | None) -> None:
        """Sets the current step: 0 .. max-1, or None for "unknown". Raises ValueError when out of range."""
        if index is not None:
            limit = step_count.get()
            index = whole("timestep", "timestep_idx", index)
            if index < 0 or (limit is not None and index >= limit):
                raise ValueError(f"[timestep] timestep_idx must be in [0, {'max' if limit is None else limit}), got {index}")
        step_index.set(index)

    @staticmethod
    def get_timestep_idx() -> int | None:
        """The current step, or None."""
        return step_index.get()

    @staticmethod
    def set_timestep_idx_max(count: int | None) -> None:
        """Sets the number of sampling steps (>= 1), or None for no limit. Raises ValueError when the current step lies beyond it."""
        if count is not None:
            count = whole("timestep", "timestep_idx_max", count)
            if count < 1:
                raise ValueError(f"[timestep] timestep_idx_max must be at least 1, got {count}")
            index = step_index.get()
            if index is not None and index >= count:
                raise ValueError(f"[timestep] timestep_idx is {index}: timestep_idx_max must be larger, got {count}")
        step_count.set(count)

    @staticmethod
    def get_timestep_idx_max() -> int | None:
        """The number of sampling steps, or None."""
        return step_count.get()


def timestep_callback(steps: int, then: Callable[..., dict[str, Any]] | None = None) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` for a diffusers pipeline that tells timestep-aware layers which step comes next.

    steps: num_inference_steps of the call. then: another callback to call afterwards. The step is set to 0 at once, so make a new
    callback for each call:  pipe(prompt, num_inference_steps=30, callback_on_step_end=aerogel.timestep_callback(30))"""
    TimestepManager.set_timestep_idx(None)
    TimestepManager.set_timestep_idx_max(steps)
    TimestepManager.set_timestep_idx(0)

    def callback(pipe: Any, step: int, timestep: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        TimestepManager.set_timestep_idx(min(step + 1, steps - 1))
        return then(pipe, step, timestep, kwargs) if then else kwargs

    return callback


class TimestepPolicyConfig(_core.TimestepPolicyConfig):
    """What timestep-aware layers do in which step; steps that no range covers follow the defaults.

    default_strategy: "dynamic" or "static" activation scales of W8A8_TIMESTEP Linears. w4a4_default_strategy: "W4A4", or "W4A8" for
    activations in 8 bits on the same weights. fa_default_strategy: "MXFP4", "FP8" or "FLOAT", of MXFP4_DYNAMIC attention. 8-bit attention
    becomes float in steps registered as FLOAT and is never made coarser."""

    text: str  # the whole policy: a graph of torch.compile is guarded by it, a program of torch.export holds it
    _core_answers = True  # no get_strategy but the core's decides

    def __init__(self, default_strategy: str = "dynamic", w4a4_default_strategy: str = "W4A4", fa_default_strategy: str = "MXFP4") -> None:
        super().__init__(default_strategy, w4a4_default_strategy, fa_default_strategy)
        self._write_down()

    def __init_subclass__(cls) -> None:
        owner = next(c for c in cls.__mro__ if "get_strategy" in vars(c))
        cls._core_answers = cls._core_answers and (owner is TimestepPolicyConfig or owner is not cls and getattr(owner, "_core_answers", False))

    @classmethod
    def static_from(cls, step: int) -> Self:
        """W8A8_TIMESTEP layers are dynamic before this step and static from it on."""
        return cls._from_text(_core.TimestepPolicyConfig.text_from(whole("timestep", "step", step)))

    @classmethod
    def _from_text(cls, text: str) -> Self:
        policy = cls.__new__(cls)
        policy.__setstate__({"text": text})
        return policy

    def register(self, step_range: int | Iterable[int], strategy: str, target: str = "w4a4_linear") -> Self:
        """Sets the strategy of some steps; later calls win. step_range: a step, or a list or range of steps. target: "w8a8_static_linear",
        "w4a4_linear", "fa", or "linear": the one of the Linears that has this strategy."""
        self.register_steps(step_range, strategy, target)
        self._write_down()
        return self

    def get_strategy(self, step: int | None, target: str = "w8a8_static_linear") -> str:
        """The strategy of a step; the target's default for None and for steps that no range covers."""
        return super().get_strategy(step, target)

    def in_step(self, step: int | None) -> _core.TimestepPolicyConfig:
        """The policy as the core reads it for this step; a class with a get_strategy of its own is asked."""
        if self._core_answers:
            return self
        plain = TimestepPolicyConfig(self.get_strategy(step, "w8a8_static_linear"), self.get_strategy(step, "w4a4_linear"),
                                     self.get_strategy(step, "fa"))
        return plain if step is None else plain.register(step, plain.fa_default_strategy, "fa")

    def _write_down(self) -> None:
        vars(self)["text"] = self.to_text()

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if "text" in vars(self):  # not before the core's part is there
            self._write_down()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other) if other.__class__ is self.__class__ else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        fields = ("default_strategy", "w4a4_default_strategy", "fa_default_strategy")
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:  # type: ignore[override]
        super().__setstate__(state["text"])
        vars(self).update(state)
        self._write_down()


@cache
def policy_from(text: str) -> TimestepPolicyConfig:
    """The policy with this `text`."""
    return TimestepPolicyConfig._from_text(text)
