"""Which sampling step runs now, and what timestep-aware layers do in each step."""
from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import Self

_index: ContextVar[int | None] = ContextVar("aerogel_timestep_idx", default=None)
_index_max: ContextVar[int | None] = ContextVar("aerogel_timestep_idx_max", default=None)


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"[timestep] {name} must be a whole number, got {value!r}")
    return value


class TimestepManager:
    """The current sampling step, 0-based, held per execution context (threads and asyncio tasks do not see each other's).

    Pipelines call `TimestepManager.set_timestep_idx(i)` before step i; see `aerogel.timestep_callback` for diffusers."""

    @staticmethod
    def set_timestep_idx(index: int | None) -> None:
        """index: 0 .. max-1, or None for "unknown". ValueError when out of range."""
        if index is not None:
            limit = _index_max.get()
            if _whole("timestep_idx", index) < 0 or (limit is not None and index >= limit):
                raise ValueError(f"[timestep] timestep_idx must be in [0, {'max' if limit is None else limit}), got {index}")
        _index.set(index)

    @staticmethod
    def get_timestep_idx() -> int | None:
        """The current step, or None."""
        return _index.get()

    @staticmethod
    def set_timestep_idx_max(count: int | None) -> None:
        """Number of sampling steps (>= 1), or None for no limit. ValueError when the current step lies beyond it."""
        if count is not None:
            if _whole("timestep_idx_max", count) < 1:
                raise ValueError(f"[timestep] timestep_idx_max must be at least 1, got {count}")
            index = _index.get()
            if index is not None and index >= count:
                raise ValueError(f"[timestep] timestep_idx is {index}: timestep_idx_max must be larger, got {count}")
        _index_max.set(count)

    @staticmethod
    def get_timestep_idx_max() -> int | None:
        """The number of sampling steps, or None."""
        return _index_max.get()


STRATEGIES = {"w8a8_static_linear": ("dynamic", "static"), "w4a4_linear": ("W4A4", "W4A8"), "fa": ("MXFP4", "FP8", "FLOAT")}


@dataclass
class TimestepPolicyConfig:
    """What timestep-aware layers do in which step; steps that no range covers follow the defaults.

    default_strategy: "dynamic" or "static" activation scales of W8A8_TIMESTEP Linears. w4a4_default_strategy: "W4A4", or "W4A8" for
    activations in 8 bits on the same weights. fa_default_strategy: "MXFP4", "FP8" or "FLOAT", of MXFP4_DYNAMIC attention."""

    default_strategy: str = "dynamic"
    w4a4_default_strategy: str = "W4A4"
    fa_default_strategy: str = "MXFP4"
    _ranges: dict[tuple[str, int | None], str] = field(default_factory=dict, init=False, repr=False)
    text: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for target in STRATEGIES:
            self._check(target, self._default(target))
        self._write_down()

    def _default(self, target: str) -> str:
        return {"w8a8_static_linear": self.default_strategy, "w4a4_linear": self.w4a4_default_strategy,
                "fa": self.fa_default_strategy}[target]

    @staticmethod
    def _check(target: str, strategy: str) -> None:
        if strategy not in STRATEGIES[target]:
            raise ValueError(f"[timestep] strategy of {target} must be one of {', '.join(STRATEGIES[target])}, got {strategy!r}")

    @staticmethod
    def _resolve(target: str, strategy: str | None) -> str:
        if target == "linear":
            target = next((t for t in ("w8a8_static_linear", "w4a4_linear") if strategy in STRATEGIES[t]), "w8a8_static_linear")
        if target not in STRATEGIES:
            raise ValueError(f"[timestep] target must be one of linear, {', '.join(STRATEGIES)}, got {target!r}")
        return target

    def register(self, step_range: int | Iterable[int], strategy: str, target: str = "w4a4_linear") -> Self:
        """step_range: a step, a list or a range of steps (later calls win). target "linear" goes by the strategy's name."""
        target = self._resolve(target, strategy)
        self._check(target, strategy)
        steps = [step_range] if isinstance(step_range, int) else list(step_range)
        for step in steps:
            if _whole("step", step) < 0:
                raise ValueError(f"[timestep] steps must be >= 0, got {step}")
        for step in steps:
            self._ranges[target, step] = strategy
        self._write_down()
        return self

    def get_strategy(self, step: int | None, target: str = "w8a8_static_linear") -> str:
        """The strategy of a step, the target's default for None and for steps that nothing covers."""
        target = self._resolve(target, None)
        return self._ranges.get((target, step), self._default(target))

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name in self.__dataclass_fields__ and name != "_ranges" and "_ranges" in self.__dict__:
            self._write_down()

    def _write_down(self) -> None:
        """The whole policy as `text`: a graph of torch.compile is guarded by it, a program of torch.export holds it."""
        defaults = [f"{target}={self._default(target)}" for target in STRATEGIES]
        steps: dict[tuple[str, str], list[str]] = {}
        for (target, step), strategy in self._ranges.items():
            steps.setdefault((target, strategy), []).append(str(step))
        self.__dict__["text"] = ";".join(defaults + [f"{t}={s}@{','.join(numbers)}" for (t, s), numbers in steps.items()])


@cache
def policy_from(text: str) -> TimestepPolicyConfig:
    """The policy with this `text`."""
    policy, fields = TimestepPolicyConfig(), dict(zip(STRATEGIES, ("default_strategy", "w4a4_default_strategy", "fa_default_strategy")))
    for entry in text.split(";"):
        target, _, rest = entry.partition("=")
        strategy, _, steps = rest.partition("@")
        if steps:
            policy.register([int(step) for step in steps.split(",")], strategy, target)
        else:
            setattr(policy, fields[target], strategy)
    return policy
