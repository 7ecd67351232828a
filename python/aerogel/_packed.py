"""The kernel's form of a layer's arrays: made when first needed, and anew when an array is another one or was written to.

It dies with the array `weight` and borrows the memory of all of them; whoever runs it holds the arrays."""
from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from . import _core

# Every array that a layer may store, the weight first.
ARRAYS = tuple(array.name for array in _core.layer_arrays())


class Layout(NamedTuple):
    """What the arrays of a layer mean: plain values, which a graph can hold."""

    names: tuple[str, ...]
    scheme: str
    in_features: int
    group_size: int


State: TypeAlias = tuple[Any, ...]


def state_of(array: torch.Tensor) -> State:
    """Changes when the tensor's memory does, or is written to through torch. Tensors made in inference mode do not count writes."""
    return (-1 if array.is_inference() else array._version, array.data_ptr(), array.untyped_storage()._cdata, array.shape, array.stride())


@dataclass
class Packed:
    """Hold it while its core runs."""

    core: _core.Linear
    versions: tuple[int, ...]
    storages: list[StorageWeakRef]  # while they are held, no other storage can have their addresses
    copies: list[torch.Tensor]  # contiguous ones, which the core borrows


_by_weight: weakref.WeakKeyDictionary[torch.UntypedStorage, dict[Any, Packed]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # a signal handler that runs while a layer is packed may call a layer


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may have held it, and is not in the child


def _key(layout: Layout, arrays: Sequence[torch.Tensor]) -> tuple[Any, tuple[int, ...]]:
    states = [state_of(a) for a in arrays]
    return (layout, *(s[1:] for s in states)), tuple(s[0] for s in states)


def _keep(layout: Layout, arrays: Sequence[torch.Tensor], core: _core.Linear, copies: list[torch.Tensor]) -> Packed:
    key, versions = _key(layout, arrays)
    kept = _by_weight.setdefault(arrays[0].untyped_storage(), {})
    for other in [k for k, made in kept.items() if any(s.expired() for s in made.storages)]:
        del kept[other]
    while len(kept) > 2:  # forms of scales that somebody still has: too large to keep for them
        del kept[next(iter(kept))]
    made = kept[key] = Packed(core, versions, [StorageWeakRef(a.untyped_storage()) for a in arrays], copies)
    return made


def remember(layout: Layout, arrays: Sequence[torch.Tensor], core: _core.Linear) -> Packed:
    """The form of arrays that came from this core."""
    with _lock:
        return _keep(layout, arrays, core, [])


def packed(layout: Layout, arrays: Sequence[torch.Tensor]) -> Packed:
    """The form of these arrays as they are now. ValueError when they do not fit each other."""
    if not arrays or layout.names[0] != "weight":
        raise ValueError(f"[linear] a layer needs its weight, got {', '.join(layout.names) or 'no arrays'}")
    for name, array in zip(layout.names, arrays, strict=True):
        if not array.is_cpu:
            raise NotImplementedError(f"[linear] {name} must be on the CPU, got {array.device}")
    key, versions = _key(layout, arrays)
    with _lock:
        made = _by_weight.get(arrays[0].untyped_storage(), {}).get(key)
        if made is None or made.versions != versions:
            plain = [a.detach().contiguous() for a in arrays]
            core = _core.Linear.from_arrays(*layout[1:], **dict(zip(layout.names, plain)))
            made = _keep(layout, arrays, core, [p for p, a in zip(plain, arrays) if p.data_ptr() != a.data_ptr()])
    return made


def check(layout: Layout, arrays: Mapping[str, torch.Tensor]) -> None:
    """ValueError when the arrays do not fit each other."""
    _core.Linear.check(*layout[1:], **{name: array.contiguous() for name, array in arrays.items()})
