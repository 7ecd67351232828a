"""The kernel's form of a layer's arrays on a device: made when first needed, and anew when an array is another one or was written to.

It dies with the array `weight` and borrows the memory of all of them; whoever runs it holds the arrays. On a GPU it is in memory of torch's, beside
the arrays, which may lie there or on the CPU. When a layer leaves a GPU for the CPU, that form waits in host memory, and coming back is a copy."""
from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from . import _core
from ._devices import lending, stream_of, why_not_here

# Every array that a layer may store, the weight first.
ARRAYS = tuple(array.name for array in _core.layer_arrays())


CPU = torch.device("cpu")


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
    copies: list[torch.Tensor]  # contiguous ones on the CPU, which the core borrows
    place: torch.device = CPU
    memory: list[torch.Tensor] = field(default_factory=list)  # on a GPU
    streams: set[int] = field(default_factory=set)  # those that torch knows to use it
    arrays: list[weakref.ref[torch.Tensor]] = field(default_factory=list)  # those of the layer that graphs have the ticket of
    waits_for: tuple[weakref.ref[torch.UntypedStorage], Any] | None = None  # the weight, and the key, once its layer has left for the CPU
    _ticket: torch.Tensor | None = None

    def __del__(self) -> None:
        """Nobody runs it any more."""
        if self.waits_for is None or (weight := self.waits_for[0]()) is None:
            return
        try:
            self.core.move_weight(False)
        except Exception:  # no memory for it, or the interpreter ends: it will be packed again
            return
        with _lock:
            _waiting[weight] = Waiting(self.waits_for[1], self.core, self.versions, self.storages, self.copies)

    def stream(self) -> int:
        """The stream for a call now. The memory is not lent again before that work is done, on whatever stream it was made."""
        if self.place is CPU:
            return 0
        stream = torch.cuda.current_stream(self.place)
        if stream.cuda_stream not in self.streams:
            for memory in self.memory:
                memory.record_stream(stream)
            self.streams.add(stream.cuda_stream)
        return stream.cuda_stream

    def ticket(self, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        """Stands for this form of these arrays in a graph, on its GPU: uint8 [out_features, 1], bytes that mean nothing, at an address that does."""
        self.arrays = [weakref.ref(a) for a in arrays]
        if self._ticket is None:
            largest = max(self.memory, key=lambda memory: memory.nbytes)
            with torch.inference_mode(False), torch.no_grad():
                self._ticket = largest.as_strided((self.core.out_features, 1), (1, 1))
            # A CUDA graph of torch.compile takes it where it is, and is captured again when it is elsewhere (torch._dynamo.mark_static_address).
            self._ticket._dynamo_static_input_type = "unguarded"
            with _lock:
                _by_ticket[self._ticket.untyped_storage()] = weakref.ref(self)
        return self._ticket


class Waiting(NamedTuple):
    """A form for a GPU in host memory."""

    key: Any
    core: _core.Linear
    versions: tuple[int, ...]
    storages: list[StorageWeakRef]
    copies: list[torch.Tensor]


_waiting: weakref.WeakKeyDictionary[torch.UntypedStorage, Waiting] = weakref.WeakKeyDictionary()
_by_weight: weakref.WeakKeyDictionary[torch.UntypedStorage, dict[Any, Packed]] = weakref.WeakKeyDictionary()
_by_ticket: weakref.WeakKeyDictionary[torch.UntypedStorage, weakref.ref[Packed]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()  # a signal handler that runs while a layer is packed may call a layer


def _new_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may have held it, and is not in the child


def _key(layout: Layout, arrays: Sequence[torch.Tensor], place: torch.device) -> tuple[Any, tuple[int, ...]]:
    states = [state_of(a) for a in arrays]
    return (layout, place, *(s[1:] for s in states)), tuple(s[0] for s in states)


def _keep(layout: Layout, arrays: Sequence[torch.Tensor], core: _core.Linear, copies: list[torch.Tensor], place: torch.device = CPU) -> Packed:
    key, versions = _key(layout, arrays, place)
    kept = _by_weight.setdefault(arrays[0].untyped_storage(), {})
    for other in [k for k, made in kept.items() if any(s.expired() for s in made.storages)]:
        del kept[other]
    while len(kept) > 2:  # forms of scales that somebody still has: too large to keep for them
        del kept[next(iter(kept))]
    made = kept[key] = Packed(core, versions, [StorageWeakRef(a.untyped_storage()) for a in arrays], copies, place)
    return made


def remember(layout: Layout, arrays: Sequence[torch.Tensor], core: _core.Linear) -> Packed:
    """The form of arrays that came from this core."""
    with _lock:
        return _keep(layout, arrays, core, [])


def packed(layout: Layout, arrays: Sequence[torch.Tensor], place: torch.device = CPU) -> Packed:
    """The form of these arrays as they are now, for that device. ValueError when they do not fit each other."""
    if not arrays or layout.names[0] != "weight":
        raise ValueError(f"[linear] a layer needs its weight, got {', '.join(layout.names) or 'no arrays'}")
    for name, array in zip(layout.names, arrays, strict=True):
        if why := why_not_here(array):
            raise NotImplementedError(f"[linear] {name} must be {why}")
    key, versions = _key(layout, arrays, place)
    with _lock:
        made = _by_weight.get(arrays[0].untyped_storage(), {}).get(key)
        if made is None or made.versions != versions:
            waits = _waiting.get(arrays[0].untyped_storage())
            if waits is not None and waits.key == key and waits.versions == versions:
                made = _on_gpu(layout, arrays, lambda: _brought(waits), waits.copies, place)
                del _waiting[arrays[0].untyped_storage()]
                return made
            plain = [a.detach().cpu().contiguous() for a in arrays]
            copies, named = [p for p, a in zip(plain, arrays) if p.data_ptr() != a.data_ptr()], dict(zip(layout.names, plain))
            if place.type == "cpu":
                made = _keep(layout, arrays, _core.Linear.from_arrays(*layout[1:], **named), copies)
            else:
                made = _on_gpu(layout, arrays, lambda: _core.Linear.on_gpu(place.index, *layout[1:], **named), copies, place)
    return made


def _brought(waits: Waiting) -> _core.Linear:
    try:
        waits.core.move_weight(True)
    except BaseException:
        waits.core.move_weight(False)
        raise
    return waits.core


def _on_gpu(layout: Layout, arrays: Sequence[torch.Tensor], make: Callable[[], _core.Linear], copies: list[torch.Tensor],
            place: torch.device) -> Packed:
    stream = stream_of(place)
    with lending() as memory:
        core = make()
    made = _keep(layout, arrays, core, copies, place)
    made.memory, made.streams = memory.left(), {stream}
    return made


def leave(arrays: Sequence[torch.Tensor], place: torch.device) -> None:
    """Forgets the forms of these arrays for other devices: a layer has moved there. Where it is the CPU, that of a GPU waits there."""
    if arrays:
        weight = arrays[0].untyped_storage()
        with _lock:
            kept = _by_weight.get(weight, {})
            for key in [k for k in kept if k[1] != place]:
                if place.type == "cpu":
                    kept[key].waits_for = weakref.ref(weight), key
                del kept[key]


def of_ticket(ticket: torch.Tensor) -> Packed:
    """The form that a graph has a ticket of. ValueError where it is no more, or no longer that of the layer's arrays."""
    with _lock:
        made = _by_ticket.get(ticket.untyped_storage())
    if made is None or (form := made()) is None:
        raise ValueError("[linear] the layer of this graph is gone, or lies elsewhere now: compile it again")
    if any((array := ref()) is not None and state_of(array)[0] != version for ref, version in zip(form.arrays, form.versions)):
        raise ValueError("[linear] an array of a layer in this graph was written to: call the layer once outside of the graph, which follows then")
    return form


def check(layout: Layout, arrays: Mapping[str, torch.Tensor]) -> None:
    """ValueError when the arrays do not fit each other."""
    _core.Linear.check(*layout[1:], **{name: array.cpu().contiguous() for name, array in arrays.items()})
