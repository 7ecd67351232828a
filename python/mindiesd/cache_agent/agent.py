"""CacheAgent: a model calls its attention or its blocks through it, and some calls are answered from what earlier steps gave.

Steps next to each other resemble each other: attention outputs (PAB, Zhao et al., arXiv 2408.12588) and what a range of blocks adds to the
hidden states (Delta-DiT, Chen et al., arXiv 2406.01125) may stand in for those of the next steps."""
from collections.abc import Callable
from typing import Any

import torch

from ..utils.exception import ConfigError, ModelExecError, ParametersInvalid
from .config import CacheConfig


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Of the tensors among the arguments."""
    return tuple(tuple(t.shape) for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor))


class _Cache:
    """Counts calls; a subclass says what a call does."""

    def __init__(self, config: CacheConfig) -> None:
        self.config, self.step, self.block = config, 0, 0
        self.shapes: dict[int, tuple[Any, ...]] = {}  # of the tensors that each block was called with last

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            result = self._of_one_video(function, args, kwargs)
        except BaseException:  # KeyboardInterrupt too: this video ends here
            self.reset()
            raise
        self.block += 1
        if self.block == self.config.blocks_count:
            self.step, self.block = self.step + 1, 0
            if self.step == self.config.steps_count:
                self.reset()
        return result

    def _of_one_video(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result; with other shapes than the block had in the step before it is the first of another video."""
        shapes = _shapes(args, kwargs)
        if self.step and self.shapes.get(self.block, shapes) != shapes:
            self.reset()
        self.shapes[self.block] = shapes
        return self.call(function, *args, **kwargs)

    def reset(self) -> None:
        """Forgets the video that was under way: the next call is block 0 of step 0."""
        self.step = self.block = 0
        self.shapes.clear()
        self.release()

    def due(self) -> bool:
        """Whether a step from step_start on is one of those that are computed."""
        return (self.step - self.config.step_start) % self.config.step_interval == 0

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


class AttentionCache(_Cache):
    """The result of each block's attention stands in for that of the same block in later steps."""

    def __init__(self, config: CacheConfig) -> None:
        super().__init__(config)
        self.results: dict[int, Any] = {}

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start, end = self.config.step_start, self.config.step_end
        if start < self.step <= end and not self.due():
            return self.results[self.block]
        result = function(*args, **kwargs)
        if start <= self.step < end:
            self.results[self.block] = result
        return result

    def release(self) -> None:
        self.results.clear()


def _hidden_states(kwargs: dict[str, Any]) -> Any:
    if "hidden_states" not in kwargs:
        raise ParametersInvalid("[DiTBlockCache]: Cannot find 'hidden_states' in kwargs.")
    if kwargs["hidden_states"] is None:
        raise ParametersInvalid("[DiTBlockCache]: Input 'hidden_states' is None.")
    return kwargs.pop("hidden_states")


def _two_need_encoder(states: Any) -> Any:
    if states is None:
        raise ParametersInvalid("[DiTBlockCache] 'encoder_hidden_states' is required when the output count of cache function is 2.")
    return states


class DiTBlockCache(_Cache):
    """What a range of blocks adds to hidden_states (and encoder_hidden_states, where blocks return both) is added in later steps, and the
    range left out."""

    def __init__(self, config: CacheConfig) -> None:
        super().__init__(config)
        self.entered: tuple[Any, Any] = (None, None)  # what the range began with
        self.added: tuple[Any, ...] = ()
        self.outputs = 1

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        states = _hidden_states(kwargs)
        config = self.config
        if self.step >= config.step_start and not self.due() and config.block_start <= self.block < config.block_end:
            return self.skipped(states, kwargs)
        both = (states, kwargs.pop("encoder_hidden_states")) if "encoder_hidden_states" in kwargs else (states,)
        result = function(*both, *args, **kwargs)
        if self.step >= config.step_start and self.due():
            self.keep(result, (*both, None)[:2])
        return result

    def skipped(self, states: Any, kwargs: dict[str, Any]) -> Any:
        first = self.block == self.config.block_start
        if self.outputs == 1:
            return states + self.added[0] if first else states
        encoder = _two_need_encoder(kwargs.get("encoder_hidden_states"))
        return (states + self.added[0], encoder + self.added[1]) if first else (states, encoder)

    def keep(self, result: Any, given: tuple[Any, Any]) -> None:
        outputs = result if isinstance(result, (list, tuple)) else (result,)
        self.outputs = len(outputs)
        if self.outputs not in (1, 2):
            raise ModelExecError(f"[DiTBlockCache] The output count of cache function must be 1 or 2, but got {self.outputs}.")
        if self.block == self.config.block_start:
            self.entered = given
        if self.block == self.config.block_end - 1:
            if any(output is None for output in outputs):
                raise ModelExecError("[DiTBlockCache] The output of cache function is None.")
            if self.outputs == 2:
                _two_need_encoder(given[1])
            self.added = tuple(after - before for after, before in zip(outputs, self.entered))
            self.entered = (None, None)

    def release(self) -> None:
        self.entered, self.added = (None, None), ()


_METHODS: dict[str, type[_Cache]] = {"attention_cache": AttentionCache, "dit_block_cache": DiTBlockCache}


class CacheAgent:
    """`agent.apply(function, ...)` in place of `function(...)`, once per block and step; "dit_block_cache" wants hidden_states and, where the
    block takes it, encoder_hidden_states by keyword, and hands them on in front.

    The agent counts calls. A pipeline that calls the model twice in a step (classifier-free guidance in two calls) makes twice as many:
    blocks_count counts both. A video ends after its last step, at an exception of a function, and where a block's tensors have other shapes
    than in the step before; a pipeline that stops in between calls `reset()`.
    Raises ConfigError for a configuration that does not fit."""

    def __init__(self, config: CacheConfig) -> None:
        if not isinstance(config, CacheConfig):
            raise ConfigError(f"[cache] config must be a CacheConfig, got {type(config).__name__}.")
        if not isinstance(config.method, str) or config.method not in _METHODS:
            raise ConfigError(f"[cache] Method '{config.method}' is not supported, the list of support methods is {', '.join(_METHODS)}.")
        config.check()
        self._config, self._cache = config, _METHODS[config.method](config)

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What function gives for these arguments, or what stands in for it. Raises ParametersInvalid for what cannot be called."""
        if not callable(function):
            raise ParametersInvalid("[cache] Input function must be callable.")
        return function(*args, **kwargs) if self._config.idle else self._cache.apply(function, *args, **kwargs)

    def reset(self) -> None:
        """Forgets counts and results: the next call is the first of a new video. For pipelines that are interrupted."""
        self._cache.reset()
