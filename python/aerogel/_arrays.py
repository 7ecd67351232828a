"""Arrays as the core takes them: float32 or bfloat16, on the CPU or a GPU, last axis contiguous, without gradients."""
from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar, Union

import numpy as np

from . import _core
from ._devices import why_not_here

if TYPE_CHECKING:
    import torch

Array: TypeAlias = Union[np.ndarray, "torch.Tensor"]
# For functions that answer in kind: all such arrays of a call are NumPy's, or all are torch's.
ArrayT = TypeVar("ArrayT", np.ndarray, "torch.Tensor")


def is_torch(array: object) -> TypeGuard[torch.Tensor]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def from_core(array: np.ndarray) -> torch.Tensor:
    """A tensor that shares the memory of an array of the core. torch has no read-only tensors: one over a mapped file may be written to, the
    file stays as it is."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ", category=UserWarning)
        return torch.from_numpy(array)


def refuse_recorders(op: str, *arrays: object) -> None:
    """NotImplementedError where torch records or transforms what is done with these: it sees nothing of a call of the core, so that the result
    would be missing in a recording, and its derivative in a transform."""
    for array in arrays:
        if hasattr(type(array), "__torch_function__"):
            from ._watching import recorder

            who = recorder(array)
            if who:
                raise NotImplementedError(f"[{op}] {who} cannot see into this call; torch.compile leaves it out of its graph")


def wants_gradients(*arrays: object) -> bool:
    """Whether the caller will ask for gradients with respect to one of them."""
    return any(is_torch(a) and a.requires_grad for a in arrays) and sys.modules["torch"].is_grad_enabled()


def as_float_array(op: str, name: str, array: ArrayT, halves: bool = False) -> ArrayT:
    """float32 and bfloat16 pass uncopied where the layout allows it; float16 is widened to float32, on a GPU not where halves are taken. ValueError
    otherwise."""
    if is_torch(array):
        return _from_torch(op, name, array, halves)
    array = np.asarray(array)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    if array.dtype != np.float32:
        raise ValueError(f"[{op}] {name} must be float32 or float16 (bfloat16 as a torch tensor), got {array.dtype}")
    return array if array.ndim and array.strides[-1] == array.itemsize else np.ascontiguousarray(array)


def _from_torch(op: str, name: str, tensor: torch.Tensor, halves: bool) -> torch.Tensor:
    torch = sys.modules["torch"]
    if not tensor.is_cpu and (why := why_not_here(tensor)):
        raise NotImplementedError(f"[{op}] {name} must be {why}")
    if tensor.layout is not torch.strided:
        raise ValueError(f"[{op}] {name} must be dense, got {tensor.layout}")
    dtype = tensor.dtype
    if dtype is torch.float16:
        tensor = tensor if halves and tensor.is_cuda else tensor.float()
    elif dtype is not torch.float32 and dtype is not torch.bfloat16:
        raise ValueError(f"[{op}] {name} must be float32, bfloat16 or float16, got {dtype}")
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor if tensor.ndim and tensor.stride(-1) == 1 else tensor.contiguous()


# Bytes from which on outputs take the memory of earlier ones: smaller ones come from memory touched before.
_REUSED = 1 << 20


def empty(shape: Sequence[int], like: ArrayT) -> ArrayT:
    """A contiguous array of like's kind, type and device; a large one of torch's on the CPU takes the memory of one that is gone."""
    if not is_torch(like):
        return np.empty(shape, dtype=like.dtype)
    torch = sys.modules["torch"]
    large = like.is_cpu and math.prod(shape) * like.element_size() >= _REUSED
    if large and like.dtype in (torch.float32, torch.bfloat16):
        return torch._C._from_dlpack(_core.output(shape, like.dtype is torch.bfloat16))
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def handed(array: Array) -> Any:
    """The array in the form that the core takes quickest: torch's own DLPack protocol costs several microseconds a tensor, its
    capsules do not. To be used once."""
    return sys.modules["torch"]._C._to_dlpack(array) if is_torch(array) else array


def restored(result: ArrayT, original: ArrayT) -> ArrayT:
    """The result in the original's dtype."""
    if result.dtype == original.dtype:
        return result
    return result.to(original.dtype) if is_torch(result) else result.astype(original.dtype)
