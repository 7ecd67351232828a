"""CUDA tensors for a torch that was built without CUDA: "cuda" is a device over the fake driver (tests/emulator), whose memory the host cannot
touch. torch's tensors, dispatcher and modules are the real ones; only what its CUDA build would add is here: memory (kept per stream, as torch's
allocator keeps it), copies, views, and every other operation by copies to the CPU and back, on the current stream. fake_cuda_guard.cpp has what
C++ must add. So aerogel is tested as users call it, and knows nothing of this.

    import fake_cuda                  # before torch
    x = torch.randn(3, 4).to("cuda")
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import threading
from typing import Any

BUILD = pathlib.Path(os.environ.get("AEROGEL_BUILD", pathlib.Path(__file__).resolve().parents[2] / "build/release"))
os.environ.setdefault("AEROGEL_CUDA_DRIVER", str(BUILD / "libaerogel_fake_driver.so"))
os.environ.setdefault("AEROGEL_FAKE_GPUS", "2")
_guard = ctypes.CDLL(str(BUILD / "libfake_cuda_guard.so"))  # before torch, which asks once whether there is CUDA

import torch  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

_driver = ctypes.CDLL(os.environ["AEROGEL_CUDA_DRIVER"])
_u64, _pointer = ctypes.c_uint64, ctypes.c_void_p


def _call(name: str, *args: Any, device: int = 0) -> None:
    """An entry point of the driver, in the context of the device."""
    _driver.cuCtxPushCurrent_v2(_contexts[device])
    result = getattr(_driver, name)(*args)
    _driver.cuCtxPopCurrent_v2(None)
    if result != 0:
        raise RuntimeError(f"{name}: CUDA error {result}")


def _open_contexts() -> list[Any]:
    count = ctypes.c_int()
    assert _driver.cuInit(0) == 0 and _driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    contexts = [_pointer() for _ in range(count.value)]
    for index, context in enumerate(contexts):
        assert _driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), index) == 0
    return contexts


_contexts = _open_contexts()


# --- streams ---
class Stream:
    """torch.cuda.Stream, as far as the tests go."""

    def __init__(self, handle: int = 0, device: int = 0) -> None:
        self.cuda_stream, self.device_index = handle, device

    @classmethod
    def new(cls, device: int = 0) -> Stream:
        handle = _pointer()
        _call("cuStreamCreate", ctypes.byref(handle), 1, device=device)
        return cls(handle.value, device)

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", _pointer(self.cuda_stream), device=self.device_index)


_here = threading.local()


def current_stream(device: Any = None) -> Stream:
    return getattr(_here, "stream", None) or Stream(0, _index(device))


@contextlib.contextmanager
def on_stream(stream: Stream):
    before, _here.stream = getattr(_here, "stream", None), stream
    yield stream
    _here.stream = before


def _index(device: Any) -> int:
    if isinstance(device, int):
        return device
    return (torch.device(device).index if device is not None else None) or 0


# --- memory ---
class _Memory:
    """As torch's allocator: what is freed is lent again to work of the stream it was allocated on, and what other streams use (record_stream)
    only when they are done. In a capture memory comes from a pool of the graph, and stays there."""

    def __init__(self) -> None:
        self.free: dict[tuple[int, int, int], list[int]] = {}  # (device, stream, bytes)
        self.lent: dict[int, tuple[int, int, int]] = {}
        self.used_on: dict[int, set[int]] = {}
        self.pool: list[int] | None = None  # of a graph: next address, end
        self.allocations = 0

    def take(self, device: int, size: int) -> int:
        self.allocations += 1
        size = max(size, 1)
        if self.pool is not None:
            address, self.pool[0] = self.pool[0], self.pool[0] + -(-size // 256) * 256
            assert self.pool[0] <= self.pool[1], "the pool of the graph is too small"
            return address
        key = (device, current_stream(device).cuda_stream, size)
        if kept := self.free.get(key):
            address = kept.pop()
            _call("cuMemsetD8Async", _u64(address), ctypes.c_ubyte(0xFF), ctypes.c_size_t(size), _pointer(key[1]), device=device)
        else:
            got = _u64()
            _call("cuMemAlloc_v2", ctypes.byref(got), ctypes.c_size_t(size), device=device)
            address = got.value
        self.lent[address] = key
        return address

    def give(self, address: int) -> None:
        key = self.lent.pop(address, None)
        if key is None:  # of a graph
            return
        if self.used_on.pop(address, None) or self.pool is not None:
            if self.pool is None:
                _call("cuMemFree_v2", _u64(address), device=key[0])
            return
        self.free.setdefault(key, []).append(address)

    def record(self, address: int, stream: int) -> None:
        if address in self.lent and self.lent[address][1] != stream:
            self.used_on.setdefault(address, set()).add(stream)


memory = _Memory()


class _DLTensor(ctypes.Structure):
    _fields_ = [("data", _pointer), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
                ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", _u64)]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _DLTensor), ("context", _pointer), ("deleter", _Deleter)]
_alive: dict[int, tuple[Any, ...]] = {}
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [_pointer, ctypes.c_char_p, _pointer]


@_Deleter
def _delete(managed: Any) -> None:
    address = managed.contents.tensor.data
    _alive.pop(ctypes.addressof(managed.contents))
    memory.give(address)


def _bytes_on(device: int, size: int) -> torch.Tensor:
    """uint8 [size] on the device."""
    managed, shape, stride = _Managed(), (ctypes.c_int64 * 1)(size), (ctypes.c_int64 * 1)(1)
    managed.tensor = _DLTensor(memory.take(device, size), 2, device, 1, 1, 8, 1, shape, stride, 0)
    managed.deleter = _delete
    _alive[ctypes.addressof(managed)] = managed, shape, stride
    return torch._C._from_dlpack(_capsule(ctypes.addressof(managed), b"dltensor", None))


_on_cpu = torch._C.DispatchKey.CPU


def _empty_strided(size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, **pinned: Any) -> torch.Tensor:
    dtype = dtype or torch.get_default_dtype()
    needed = 0 if 0 in size else 1 + sum((n - 1) * s for n, s in zip(size, stride))
    raw = _bytes_on(_index(device), needed * dtype.itemsize)
    typed = raw if dtype == torch.uint8 else torch.ops.aten.view.dtype(raw, dtype)
    return torch.ops.aten.as_strided.default._op_dk(_on_cpu, typed, size, stride, 0)


def _empty(size: Any, dtype: Any = None, layout: Any = None, device: Any = None, **more: Any) -> torch.Tensor:
    like = torch.empty(size, device="meta", memory_format=more.get("memory_format") or torch.contiguous_format)
    return _empty_strided(size, like.stride(), dtype, layout, device)


# --- copies ---
def _range_of(t: torch.Tensor) -> tuple[int, int]:
    """Address of the first byte, bytes from there to the last."""
    count = 0 if t.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride()))
    return t.data_ptr(), count * t.element_size()


def _down(t: torch.Tensor) -> torch.Tensor:
    """The same tensor on the CPU, with its strides."""
    address, size = _range_of(t)
    raw = torch.zeros(size, dtype=torch.uint8)
    if size:
        stream = current_stream(t.device)
        _call("cuMemcpyDtoHAsync_v2", _pointer(raw.data_ptr()), _u64(address), ctypes.c_size_t(size), _pointer(stream.cuda_stream), device=t.device.index)
        _call("cuStreamSynchronize", _pointer(stream.cuda_stream), device=t.device.index)
    return raw.view(t.dtype).as_strided(t.shape, t.stride())


def _up(host: torch.Tensor, t: torch.Tensor) -> None:
    """Bytes of the host over those of t; both have the same strides."""
    address, size = _range_of(t)
    if size:
        stream = current_stream(t.device).cuda_stream
        _call("cuMemcpyHtoDAsync_v2", _u64(address), _pointer(host.data_ptr()), ctypes.c_size_t(size), _pointer(stream), device=t.device.index)


def _copy(to: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if source.is_cuda:
        source = _down(source.detach())
    if not to.is_cuda:
        to.copy_(source)
    elif to.numel():
        dense = to.is_contiguous()
        host = torch.empty(to.shape, dtype=to.dtype) if dense else _down(to.detach())
        host.copy_(source)
        _up(host, to)
    return to


# --- everything else ---
def _by_cpu(op: Any, *args: Any, **kwargs: Any) -> Any:
    pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    device = None

    def down(value: Any) -> Any:
        nonlocal device
        if isinstance(value, torch.Tensor) and value.is_cuda:
            device = value.device
            if id(value) not in pairs:
                pairs[id(value)] = value, _down(value)
            return pairs[id(value)][1]
        return torch.device("cpu") if isinstance(value, torch.device) and value.type == "cuda" else value

    named = {a.name: a for a in op._schema.arguments}
    on_cpu, further = tree_map(down, args), tree_map(down, kwargs)
    result = op(*on_cpu, **further)
    written: dict[int, torch.Tensor] = {}
    for argument, given, copy in [(a, g, c) for a, g, c in zip(op._schema.arguments, args, on_cpu)] + [(named[n], kwargs[n], further[n]) for n in kwargs]:
        if argument.alias_info is not None and argument.alias_info.is_write:
            for t, c in zip(*([x] if isinstance(x, torch.Tensor) else (x or []) for x in (given, copy))):
                if isinstance(t, torch.Tensor) and t.is_cuda:
                    if c.shape == t.shape:
                        _copy(t, c)
                    else:  # an output that was empty
                        t.data = c.to(t.device)
                    written[id(c)] = t
    calls_for = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.device)), device)

    def up(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return written[id(value)] if id(value) in written else value.to(device or calls_for)

    return tree_map(up, result)


def _record_stream(t: torch.Tensor, stream: Any) -> None:
    memory.record(t.untyped_storage().data_ptr(), stream.cuda_stream)


_aten, _any = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")


def _register() -> None:
    _aten.impl("empty.memory_format", _empty, "CUDA")
    _aten.impl("empty_strided", _empty_strided, "CUDA")
    _aten.impl("copy_", _copy, "CUDA")
    for name in ("as_strided", "view", "unfold", "_reshape_alias"):
        op = getattr(torch.ops.aten, name).default
        _aten.impl(name, lambda *args, op=op, **kwargs: op._op_dk(_on_cpu, *args, **kwargs), "CUDA")
    _any.fallback(_by_cpu, "CUDA")


class _StreamContext:
    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        self.before, _here.stream = getattr(_here, "stream", None), self.stream or getattr(_here, "stream", None)

    def __exit__(self, *error: Any) -> None:
        _here.stream = self.before


def _patch_torch() -> None:
    cuda = torch.cuda
    cuda._lazy_init = cuda.init = cuda.empty_cache = cuda.ipc_collect = lambda: None
    cuda.is_available = cuda.is_initialized = lambda: True
    cuda.device_count = lambda: len(_contexts)
    cuda.current_device = lambda: 0
    cuda.current_stream, cuda.stream = current_stream, _StreamContext
    cuda.synchronize = lambda device=None: _call("cuCtxSynchronize", device=_index(device))
    cuda.get_rng_state, cuda.set_rng_state = (lambda *args: torch.zeros(16, dtype=torch.uint8)), (lambda *args: None)
    cuda.is_bf16_supported = lambda *args, **kwargs: True
    torch._C._cuda_getDevice = lambda: 0
    torch._C._cuda_getCurrentRawStream = lambda index: current_stream(index).cuda_stream
    torch.Tensor.record_stream = _record_stream


# --- graphs ---
class Graph:
    """torch.cuda.CUDAGraph and torch.cuda.graph in one."""

    def __init__(self, pool_bytes: int = 1 << 22) -> None:
        self.stream, self.executable = Stream.new(), _pointer()
        self.bytes = _bytes_on(0, pool_bytes)

    @contextlib.contextmanager
    def capture(self):
        graph, at = _pointer(), self.bytes.data_ptr()
        torch.cuda.synchronize()
        _call("cuStreamBeginCapture_v2", _pointer(self.stream.cuda_stream), 0)
        memory.pool = [-(-at // 256) * 256, at + self.bytes.numel()]
        try:
            with on_stream(self.stream):
                yield
        finally:
            memory.pool = None
            _call("cuStreamEndCapture", _pointer(self.stream.cuda_stream), ctypes.byref(graph))
        _call("cuGraphInstantiateWithFlags", ctypes.byref(self.executable), graph, ctypes.c_ulonglong(0))

    def replay(self) -> None:
        _call("cuGraphLaunch", self.executable, _pointer(self.stream.cuda_stream))
        self.stream.synchronize()


_register()
_patch_torch()
