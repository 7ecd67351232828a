"""Who besides the caller has an interest in a call on torch tensors: recorders, transforms, modes. The only place that knows."""
from __future__ import annotations

from typing import Any

import torch
from torch import _C
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def recorder(x: Any) -> str:
    """Who records what torch does with x, or transforms it, and would not see a call of the core; empty if nobody."""
    if type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter:
        return f"{type(x).__module__}.{type(x).__qualname__}"
    if _C._get_tracing_state() is not None:
        return "torch.jit.trace"
    if _C._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func"
    if forward_ad._current_level >= 0:  # type: ignore[attr-defined]
        return "forward-mode differentiation"
    return "make_fx" if _C._len_torch_dispatch_stack() and get_proxy_mode() is not None else ""


def nobody_watches(x: Any) -> bool:
    """True when a call need not go through torch's dispatcher, which costs tens of microseconds: no recorder, no compiler, no gradient,
    no mode of torch and no profiler that would have to see it."""
    return (type(x) is torch.Tensor and not torch.compiler.is_compiling() and not (x.requires_grad and torch.is_grad_enabled())
            and not recorder(x) and not _C._len_torch_dispatch_stack() and not _C._len_torch_function_stack()
            and not torch.autograd._profiler_enabled())  # type: ignore[attr-defined]


def refuse_recorders(op: str, x: Any) -> None:
    """NotImplementedError where the result of a call of the core would be left out of a recording, or its derivative out of a transform."""
    who = recorder(x)
    if who:
        raise NotImplementedError(f"[{op}] {who} cannot see into this call and would keep an empty result: torch.compile leaves it out of "
                                  "its graph by itself; quantized Linear layers can be traced and exported")
