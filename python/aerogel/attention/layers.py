"""The attention of a model's layers while they run: a call is a Problem, and the layer that runs says what computes it.

Such layers are those of a plan of sparse attention and those whose attention is quantized; hooks tell which one runs. The call itself comes
in through diffusers' dispatcher (aerogel.diffusers.backend) or, from processors that call torch directly, through torch's function mode.
Nothing here needs diffusers.
"""
from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .. import _core
from .._watching import recorder, transformed
from .dense import attention
from .padding import over_seen_keys, seen_keys
from .problem import Problem
from .quantized import quantized_attention


class _Entry(NamedTuple):
    """A layer that was entered and not left yet."""

    runner: RunningLayer
    layer: torch.nn.Module
    catching: bool


_log = logging.getLogger("aerogel")
TORCH_MULTIPLIES_16_BITS = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")  # in its own instructions, which is faster
MULTIPLIES_BF16 = _core.multiplies_bf16()  # faster than torch, whose attention hardly uses AVX-512 BF16, and as fast with AMX or faster
running: ContextVar[Any] = ContextVar("aerogel_running_layer", default=None)  # what attends instead: an object with attend(problem)
_entered: ContextVar[tuple[_Entry, ...]] = ContextVar("aerogel_entered_layers", default=())  # the last one runs
PARTS = "its keys come in parts (ring attention)"
numbers = itertools.count()
layers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # number -> such an object


class _Traced:
    """The running layer as torch.compile sees it, which follows plain attributes but no context variables; a tensor, because its value makes
    no guard: one graph serves all layers of a model."""

    def __init__(self) -> None:
        self.layer: torch.Tensor | None = None  # its number


traced = _Traced()


def by_torch(p: Problem) -> torch.Tensor:
    """The problem through torch's scaled_dot_product_attention."""
    q, k, v = (t.transpose(1, 2) if p.layout == "BSND" else t for t in (p.q, p.k, p.v))
    o = scaled_dot_product_attention(q, k, v, p.given_mask, p.dropout, p.causal, scale=p.scale, enable_gqa=p.gqa)
    return o.transpose(1, 2) if p.layout == "BSND" else o


def why_float(p: Problem) -> str:
    """Why a format in few bits cannot compute this; empty if it can."""
    return p.why_torch() or ("an attention mask is given" if p.mask is not None and seen_keys(p) is None else "")


def dense(p: Problem, format: str | None = None) -> torch.Tensor:
    """By Aerogel in float or in a format of `quantized_attention`; by torch where a mask is more than padding, on GPUs in float, and for 16-bit types
    in float where torch has instructions for them and Aerogel has none."""
    own = p.q.is_cpu and (p.q.dtype == torch.float32 or not TORCH_MULTIPLIES_16_BITS or (p.q.dtype == torch.bfloat16 and MULTIPLIES_BF16))
    if not (format or own) or why_float(p):
        return by_torch(p)
    if format is not None:
        return over_seen_keys(p, lambda q, k, v, **seen: quantized_attention(q, k, v, format, input_layout=p.layout, scale=p.scale, **seen))
    return over_seen_keys(p, lambda q, k, v, **seen: attention(q, k, v, input_layout=p.layout, scale=p.scale, **seen))


class RunningLayer:
    """A layer that attends itself while it runs: its hooks tell so, and attend() is called then. refusal: why it cannot be recorded, and what
    to do instead."""

    refusal = ""

    def __init__(self) -> None:
        self._number()

    def _number(self) -> None:
        number = next(numbers)
        self.number, layers[number] = torch.tensor(number, device="cpu"), self

    def __setstate__(self, state: dict[str, Any]) -> None:  # of a copy
        self.__dict__.update(state)
        self._number()

    def attend(self, p: Problem) -> torch.Tensor:
        raise NotImplementedError

    def stays(self, why: str) -> None:
        """Told when a call is computed in float and as the model says, whatever the layer would do."""

    def enter(self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._refuse_export()
        if torch.compiler.is_dynamo_compiling():
            traced.layer = self.number
        else:
            self._enter(layer)

    def leave(self, layer: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_dynamo_compiling():
            traced.layer = None
        else:
            self._leave()

    def _enter(self, layer: torch.nn.Module, catching: bool = False) -> None:
        """Entries of layers that this one is no part of are left from an error."""
        around = [e for e in itertools.takewhile(lambda e: e.runner is not self, _entered.get()) if any(m is layer for m in e.layer.modules())]
        _tell((*around, _Entry(self, layer, catching)))

    def _leave(self) -> None:
        """What is around this layer runs again."""
        if any(e.runner is self for e in _entered.get()):
            _tell(tuple(itertools.takewhile(lambda e: e.runner is not self, _entered.get())))

    def _refuse_export(self) -> None:
        """Before anything is entered: torch calls no hook at the end when an export fails."""
        if torch.compiler.is_exporting():
            raise NotImplementedError(self.refusal)

    @torch.compiler.disable
    def enter_catching(self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._refuse_export()
        self._enter(layer, catching=True)
        if not _catches():  # both a plan and a quantization may have hooks here
            catch.__enter__()

    @torch.compiler.disable
    def leave_catching(self, layer: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._leave()
        if _catches() and not any(e.catching for e in _entered.get()):
            catch.__exit__(None, None, None)


def _tell(entered: tuple[_Entry, ...]) -> None:
    _entered.set(entered)
    running.set(entered[-1].runner if entered else None)


def nobody_runs() -> None:
    """At the end of a model: an error may have kept a layer from leaving."""
    traced.layer = None
    if not torch.compiler.is_dynamo_compiling():
        _tell(())


def _leave_model(model: torch.nn.Module, args: tuple[Any, ...], output: Any) -> None:
    nobody_runs()


class QuantizedLayer(RunningLayer):
    """A layer whose attention is quantized; a plan of sparse attention that runs it goes first."""

    def __init__(self, name: str, layer: torch.nn.Module, attention: Any) -> None:
        super().__init__()
        self.name, self.attention = name, attention
        self.refusal = (f"[attention] the quantized attention of {name} lives in this process and cannot leave it in a recorded program: quantize "
                        "the model for the export without its attention")
        self.handles: list[Any] = []  # of its hooks
        self._image_first = type(layer).__name__ == "WanAttention" and getattr(layer, "add_k_proj", None) is not None
        self._calls: dict[int, int] = {}  # of each thread
        self._said = False

    def enter(self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_dynamo_compiling():
            if traced.layer is None:
                super().enter(layer, args, kwargs)
            return
        self._calls[threading.get_ident()] = 0
        if _no_plan_runs():
            super().enter(layer, args, kwargs)

    @torch.compiler.disable
    def enter_catching(self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls[threading.get_ident()] = 0
        if _no_plan_runs():
            super().enter_catching(layer, args, kwargs)

    def attend(self, p: Problem) -> torch.Tensor:
        thread = threading.get_ident()
        self._calls[thread] = self._calls.get(thread, 0) + 1
        if self._image_first and self._calls[thread] % 2:  # the image tokens of Wan's cross-attention stay float
            return dense(p)
        if why := why_float(p):
            self.stays(why)
            return by_torch(p)
        return over_seen_keys(p, lambda q, k, v, **seen: self.attention(q, k, v, layout=p.layout, softmax_scale=p.scale, **seen))

    def stays(self, why: str) -> None:
        if not self._said:
            self._said = True
            _log.warning("attention of %s stays in float: %s", self.name, why)


def _no_plan_runs() -> bool:
    """Whether a quantized layer may tell that it runs: one that an error ended may still be there."""
    return running.get() is None or isinstance(running.get(), QuantizedLayer)


def compute_with(model: torch.nn.Module, name: str, module: torch.nn.Module, attention: Any, *, catching: bool = True) -> None:
    """Lets a layer of the model compute with its QuantizedAttention; hooks tell which layer runs. catching: its processor calls torch's
    scaled_dot_product_attention. Again: with the new one, and the hooks that the processor needs now."""
    if (before := vars(module).get("_aerogel_attention")) is not None:
        for handle in before.handles:
            handle.remove()
    layer = QuantizedLayer(name, module, attention)
    object.__setattr__(module, "_aerogel_attention", layer)
    enter, leave = (layer.enter_catching, layer.leave_catching) if catching else (layer.enter, layer.leave)
    # Not always_call where the hooks are compiled: it makes torch.compile guard on those of each layer. The model's does that work.
    layer.handles = [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave, always_call=catching)]
    if _leave_model not in model._forward_hooks.values():
        model.register_forward_hook(_leave_model, always_call=True)


class Catch(TorchFunctionMode):
    """Takes torch's scaled_dot_product_attention from a processor that calls it directly."""

    def __torch_function__(self, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        if function is scaled_dot_product_attention:
            return attend(_direct(*args, **(kwargs or {})))
        return function(*args, **(kwargs or {}))


catch = Catch()  # one for all layers and threads: each thread has a stack of its own


def _catches() -> bool:
    return catch in _get_current_function_mode_stack()


def _direct(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> Problem:
    given = {**dict(zip(("attn_mask", "dropout_p", "is_causal"), rest)), **named}
    return Problem(query, key, value, "BNSD", given.get("attn_mask"), given.get("dropout_p", 0.0), given.get("is_causal", False),
                   given.get("scale"), given.get("enable_gqa", False))


@torch.compiler.disable
def _attend_now(p: Problem, number: torch.Tensor | None) -> torch.Tensor:
    layer = running.get()
    if layer is None and number is not None:
        layer = layers[int(number)]
    return dense(p) if layer is None else layer.attend(p)


def part_by_torch(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """The problem and its log-sum-exp in plain torch, scores and all."""
    q, k, v = (t.transpose(1, 2) if p.layout == "BSND" else t for t in (p.q, p.k, p.v))
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = (q.float() @ k.float().mT) * (q.shape[-1] ** -0.5 if p.scale is None else p.scale)
    if (mask := p.given_mask) is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if p.causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().masked_fill((lse == -torch.inf)[..., None], 0.0)  # a query that sees no key
    o = (weights @ v.float()).to(p.q.dtype)
    return (o.transpose(1, 2) if p.layout == "BSND" else o), lse


def attend_part(p: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """(o, log-sum-exp of its rows, float32 [batch, heads, tokens]) over some of the keys, as ring attention wants it: dense and in float, whatever
    the running layer says. Raises NotImplementedError with dropout."""
    if p.dropout:
        raise NotImplementedError("[attention] the log-sum-exp of rows does not go with dropout")
    if not torch.compiler.is_dynamo_compiling() and (layer := running.get()) is not None:
        layer.stays(PARTS)
    if p.why_torch() or p.mask is not None:
        return part_by_torch(p)
    o, lse = torch.ops.aerogel.attention_with_lse(p.q, p.k, p.v, p.layout, p.scale)
    return o, lse


def attend(p: Problem) -> torch.Tensor:
    """What the running layer says, without one dense. Returns an array like q."""
    compiling = torch.compiler.is_dynamo_compiling()
    recorded = not compiling and not transformed() and recorder(p.q)
    if recorded and (layer := running.get()) is not None:
        raise NotImplementedError(layer.refusal)
    if not (compiling or recorded) or p.wants_gradients():  # gradients break the graph
        return _attend_now(p, traced.layer)
    return torch.ops.aerogel.attend(p.q, p.k, p.v, p.layout, p.mask, p.dropout, p.causal, p.scale, p.gqa, p.gathered, traced.layer)


@torch.library.custom_op("aerogel::attention_with_lse", mutates_args=())
def attention_with_lse(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: str, scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense attention and the log-sum-exp of its rows, float32 [batch, heads, tokens], as an operation that compilers keep in their graph.
    q, k, v: as those of Problem; head_dim at most 256. Raises ValueError for what does not fit."""
    o, lse = attention(q, k, v, input_layout=layout, scale=scale, return_lse=True)
    return o.contiguous(), lse


@attention_with_lse.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: str, scale: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = layout.index("S")
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[0], q.shape[3 - tokens], q.shape[tokens], dtype=torch.float32)


@torch.library.custom_op(  # the fields of Problem, and the number of the layer
    "aerogel::attend", mutates_args=(), schema="(Tensor q, Tensor k, Tensor v, str layout, Tensor? mask, float dropout, bool causal, "
    "float? scale, bool gqa, bool gathered, Tensor? layer) -> Tensor")
def _attend(*fields: Any) -> torch.Tensor:
    return _attend_now(Problem(*fields[:-1]), fields[-1]).contiguous()


@_attend.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
    return q.new_empty((*q.shape[:-1], v.shape[-1]))
