"""Who besides the caller has an interest in a call on torch tensors: recorders, transforms, modes. The only place that knows."""
from __future__ import annotations

from typing import Any

import torch
from torch import _C
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode


exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # torch 2.7 tells them apart


def recorder(x: Any) -> str:
    """Who records what torch does with x, or transforms it, and would not see a call of the core; empty if nobody."""
    if type(x) is not torch.Tensor and getattr(type(x), "__torch_dispatch__", None) is not torch.Tensor.__torch_dispatch__:
        return f"{type(x).__module__}.{type(x).__qualname__}"
    if _C._get_tracing_state() is not None:
        return "torch.jit.trace"
    if transformed():
        return "a transform of torch.func or forward-mode differentiation"
    return "make_fx" if _C._len_torch_dispatch_stack() and get_proxy_mode() is not None else ""


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work."""
    return not torch.compiler.is_compiling() and (_C._functorch.peek_interpreter_stack() is not None
                                                  or forward_ad._current_level >= 0)


def nobody_watches(x: Any) -> bool:
    """True when a call need not go through torch's dispatcher, which costs tens of microseconds: no recorder, no compiler, no gradient,
    no mode of torch and no profiler that would have to see it."""
    return (type(x) is torch.Tensor and not torch.compiler.is_compiling() and not (x.requires_grad and torch.is_grad_enabled())
            and not recorder(x) and not _C._len_torch_dispatch_stack() and not _C._len_torch_function_stack()
            and not torch.autograd._profiler_enabled())


def unseen(module: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether nobody would miss what torch does not see of a module's call on the CPU: recorders, gradients, autocast."""
    wanted = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    return x.is_cpu and not wanted and nobody_watches(x) and not torch.is_autocast_enabled("cpu")
