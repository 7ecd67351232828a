"""Small bridges to diffusers' pipelines."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .timestep import TimestepManager


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
