"""QuantizedLinear: the torch module that stands where an nn.Linear stood."""
from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import nn

from . import _core
from ._arrays import as_float_array, empty, handed, restored
from .timestep import TimestepManager, TimestepPolicyConfig

_TARGET = "w8a8_static_linear"
_live: weakref.WeakValueDictionary[int, QuantizedLinear] = weakref.WeakValueDictionary()  # number -> module, for the custom op, which takes plain values only
_numbers = itertools.count()
_lock = threading.Lock()


def _nobody_watches(x: Any) -> bool:
    """True when a call need not go through torch's dispatcher, which costs tens of microseconds: no compiler, no gradient, no mode or
    transform (fake tensors, functorch) that would have to see it."""
    return (type(x) is torch.Tensor and not (x.requires_grad and torch.is_grad_enabled()) and not torch.compiler.is_compiling()
            and torch._C._len_torch_dispatch_stack() == 0 and torch._C._functorch.peek_interpreter_stack() is None)


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(array)


class QuantizedLinear(nn.Module):
    """y = x W^T + bias with W in a small format; made by `aerogel.quantize`, or from an nn.Linear by `from_linear`.

    forward: x [..., in_features] float32, bfloat16 or float16 on the CPU -> y [..., out_features] of the same dtype. The stored arrays are
    buffers with the names of the files ("weight", "weight_scale", ...; 8-bit floats as bytes), so state_dict, pickle and deepcopy work; `.to(dtype)` leaves
    them as they are and the dtype of x decides. Gradients flow to x (with the dequantized weight), not to the weight.
    Errors as in `aerogel.quantize`."""

    def __init__(self, core: _core.Linear) -> None:
        super().__init__()
        self.scheme, self.in_features, self.out_features = core.scheme, core.in_features, core.out_features
        self.group_size = core.group_size
        self.timestep_policy: TimestepPolicyConfig | None = None
        for name, array in core.arrays().items():
            self.register_buffer(name, _tensor(array))
        self._adopt(core)

    @classmethod
    def from_linear(cls, linear: nn.Module | SimpleNamespace, scheme: str = "W8A8_DYNAMIC", *,
                    group_size: int | None = None) -> Self:
        """linear: an nn.Linear, or any module with weight [out_features, in_features] and bias. group_size: columns that share a weight
        scale (int and fp8 weights; 0 = the whole row; None = as the scheme has it, 64 for int4 where they divide the columns)."""
        weight, bias = linear.weight.detach().contiguous(), getattr(linear, "bias", None)
        if not weight.is_cpu:
            raise NotImplementedError(f"[quantize] the weight must be on the CPU, got {weight.device}")
        return cls(_core.Linear.quantize(weight, None if bias is None else bias.detach().float().contiguous(), scheme, group_size))

    @classmethod
    def from_arrays(cls, scheme: str, in_features: int, arrays: Mapping[str, torch.Tensor], *, group_size: int = 0) -> Self:
        """The layer whose state_dict() `arrays` is (names -> tensors); ValueError when they do not fit each other."""
        return cls(_core.Linear.from_arrays(scheme, in_features, group_size, {n: a.contiguous() for n, a in arrays.items()}))

    def _adopt(self, core: _core.Linear) -> None:
        self._core = core
        with _lock:
            self._number = next(_numbers)
            _live[self._number] = self

    def _rebuild(self) -> None:
        arrays = {name: buffer.contiguous() for name, buffer in self.named_buffers(recurse=False)}
        self._adopt(_core.Linear.from_arrays(self.scheme, self.in_features, self.group_size, arrays))

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # named as nn.Linear's, so that calls by keyword go on working
        if _nobody_watches(input):
            return restored(self.run(input), input)
        if not isinstance(input, torch.Tensor):
            raise ValueError(f"[linear] x must be a torch tensor, got {type(input).__name__}")
        return torch.ops.aerogel.linear(input, self._number, self.out_features)

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The computation itself, outside of torch's dispatcher."""
        x = as_float_array("linear", "x", x)
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"[linear] x must have {self.in_features} columns, got {list(x.shape)}")
        if x.ndim > 2:
            x = x.contiguous()
        y = empty((*x.shape[:-1], self.out_features), x)
        rows = (x, y) if x.ndim > 1 else (x[None], y[None])
        step = TimestepManager.get_timestep_idx()
        self._core.forward(handed(rows[0]), handed(rows[1]), -1 if step is None else step, self._dynamic(step), self._wide(step))
        return y

    def _dynamic(self, step: int | None) -> bool:
        return self.timestep_policy is not None and self.timestep_policy.get_strategy(step, _TARGET) == "dynamic"

    def _wide(self, step: int | None) -> bool:
        return self.timestep_policy is not None and self.timestep_policy.get_strategy(step, "w4a4_linear") == "W4A8"

    def dequantized(self) -> torch.Tensor:
        """The float32 matrix [out_features, in_features] that x is multiplied with."""
        weight = _tensor(self._core.dequantized())
        return weight * self.mul_scale if "mul_scale" in self._buffers else weight

    def weight_bytes(self) -> int:
        """Bytes of the stored arrays."""
        return sum(b.numel() * b.element_size() for b in self.buffers(recurse=False))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={'bias' in self._buffers}, scheme={self.scheme}"

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        probe = fn(torch.empty(0))
        if probe.device.type != "cpu":
            raise NotImplementedError(f"[linear] {self.scheme} layers run on the CPU in this build, not on {probe.device}")
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._rebuild()

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_core"], state["_number"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rebuild()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        nn.Module.__init__(copy)
        for name in ("scheme", "in_features", "out_features", "group_size", "timestep_policy", "training"):
            setattr(copy, name, getattr(self, name))
        for name, buffer in self.named_buffers(recurse=False):
            copy.register_buffer(name, buffer.clone())
        copy._rebuild()
        return copy


@torch.library.custom_op("aerogel::linear", mutates_args=())
def _linear(x: torch.Tensor, number: int, out_features: int) -> torch.Tensor:
    return restored(_live[number].run(x), x)


@_linear.register_fake
def _(x: torch.Tensor, number: int, out_features: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.module = _live[inputs[1]]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return (grad.float() @ ctx.module.dequantized()).to(grad.dtype), None, None


_linear.register_autograd(_backward, setup_context=_keep)
