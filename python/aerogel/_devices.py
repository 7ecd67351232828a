"""Where torch's tensors lie, and what the core needs to work on them there: the stream of the call, and memory. The only place that knows."""
from __future__ import annotations

import atexit
import sys
import threading
import weakref
from typing import Any

from . import _core

_lock = threading.Lock()
_lent: dict[int, Any] = {}  # address -> uint8 tensor there; until the core gives it back
_borrows: bool | None = None  # whether the core works in torch's memory; None: nobody has asked yet
_watches = threading.local()  # lending() of this thread


class lending:
    """What the core borrows in this thread meanwhile."""

    def __enter__(self) -> lending:
        self._made: list[weakref.ref[Any]] = []
        self._around, _watches.last = getattr(_watches, "last", None), self
        return self

    def __exit__(self, *error: object) -> None:
        _watches.last = self._around

    def left(self) -> list[Any]:
        """The memory that it still has."""
        return [memory for made in self._made if (memory := made()) is not None]


def why_not_here(tensor: Any) -> str:
    """Why the core cannot work on a tensor where it lies; empty if it can."""
    if tensor.is_cpu:
        return ""
    if not tensor.is_cuda:
        return f"on the CPU or on an NVIDIA GPU, got {tensor.device}"
    if sys.modules["torch"].version.hip is not None:
        return f"on the CPU or on an NVIDIA GPU, got {tensor.device} of ROCm"
    return ""


def stream_of(device: Any) -> int:
    """The stream that torch puts work for this device on now, 0 for the CPU. Whatever the core does on a GPU begins with this: from then on
    its memory there is torch's."""
    if device.type == "cpu":
        return 0
    if not _borrows:
        _borrow()
    return sys.modules["torch"].cuda.current_stream(device).cuda_stream


def _borrow() -> None:
    global _borrows
    with _lock:
        if _borrows is None:
            _borrows = _core.borrow_gpu_memory(_lend, _lent.pop)
            atexit.register(_core.end_borrowing)
    if not _borrows:
        raise NotImplementedError("[device] this build of aerogel has no kernels for GPUs: tensors must be on the CPU")


def _lend(index: int, size: int) -> int:
    torch = sys.modules["torch"]
    memory = torch.empty(max(size, 1), dtype=torch.uint8, device=torch.device("cuda", index))
    address: int = memory.data_ptr()
    _lent[address] = memory
    if (watch := getattr(_watches, "last", None)) is not None:
        watch._made.append(weakref.ref(memory))
    return address
