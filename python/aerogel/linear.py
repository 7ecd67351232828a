"""QuantizedLinear: the torch module that stands where an nn.Linear stood, and its operators."""
from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import nn

from . import _core
from ._arrays import as_float_array, empty, from_core, handed, restored
from ._devices import stream_of, why_not_here
from ._loading import fitting, from_float
from ._packed import ARRAYS, CPU, Layout, Packed, State, leave, of_ticket, packed, remember, state_of
from ._sent import sent
from ._watching import exporting, nobody_watches, transformed
from .timestep import TimestepManager, TimestepPolicyConfig, policy_from


def multiply(made: Packed, x: torch.Tensor, policy: TimestepPolicyConfig | None) -> torch.Tensor:
    """The computation itself, outside of torch's dispatcher, in the step that runs now. On a GPU it is put on torch's stream, and nobody waits."""
    core = made.core
    if x.device != made.place:
        raise _elsewhere(x, made.place)
    given, x = x, as_float_array("linear", "x", x, halves=True)
    if x.ndim < 1 or x.shape[-1] != core.in_features:
        raise ValueError(f"[linear] x must have {core.in_features} columns, got {list(x.shape)}")
    if x.ndim > 2:
        x = x.contiguous()
    y = empty((*x.shape[:-1], core.out_features), x)
    rows = (x, y) if x.ndim > 1 else (x[None], y[None])
    step = TimestepManager.get_timestep_idx()
    core.forward(handed(rows[0]), handed(rows[1]), -1 if step is None else step, None if policy is None else policy.in_step(step), made.stream())
    return restored(y, given)


def _elsewhere(x: torch.Tensor, place: torch.device) -> Exception:
    known = x.is_cpu or x.is_cuda
    return (ValueError if known else NotImplementedError)(f"[linear] x must be on {place if place.type != 'cpu' else 'the CPU'}, got {x.device}")


def _as_autocast(x: Any) -> Any:
    """x as autocast would hand it to nn.Linear."""
    castable = isinstance(x, torch.Tensor) and (x.is_cpu or x.is_cuda) and x.is_floating_point() and x.dtype != torch.float64
    if not castable or not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


class QuantizedLinear(nn.Module):
    """y = x W^T + bias with W in a small format; made by `aerogel.quantize`, or from an nn.Linear by `from_linear`.

    forward: x [..., in_features] float32, bfloat16 or float16 -> y [..., out_features] of the same dtype (of autocast's dtype
    under autocast), where the layer is. The stored arrays are buffers with the names of the files ("weight", "weight_scale", ...; 8-bit floats
    as bytes); writing to them through torch takes effect, `.to(dtype)` leaves them as they are. `.to("cuda")` makes the kernel's form of the weight
    on that GPU; the arrays stay in the memory of the CPU, where state_dict() and buffers() have them, and layer.weight and the others give
    copies on the GPU then, sent when their numbers are first asked for: writing to a copy changes nothing. load_state_dict takes arrays of this scheme, or a
    float "weight" (and "bias"), which it quantizes; what does not fit is refused and leaves the layer as it was. Gradients flow to x (with
    the dequantized weight), not to the arrays. torch.compile, torch.export, torch.jit.trace and torch.fx see one operator, which holds the
    arrays; the sampling step is read when it runs. Errors as in `aerogel.quantize`."""

    _ticket: torch.Tensor | None = None
    _now: tuple[weakref.ref[Packed], list[State]] | None = None  # the kernel's form, which dies with the weight, and what the arrays were then
    _place: torch.device = CPU  # where the layer computes
    _own: weakref.ref[torch.Tensor] | None = None  # the weight when it was last on the CPU
    _check_file: Callable[[], None] | None = None  # raises where the arrays are views of a file that has lost bytes
    _load_state_dict_pre_hooks: OrderedDict[int, Callable[..., Any]]
    _non_persistent_buffers_set: set[str]

    def __init__(self, core: _core.Linear) -> None:
        with torch.inference_mode(False):  # tensors made in inference mode do not tell when they are written to
            arrays = {name: from_core(array) for name, array in core.arrays().items()}
        self._begin(core, arrays)
        self._check_file = core.check_intact
        layout, stored = self._stored()
        self._now = (weakref.ref(remember(layout, stored, core)), [state_of(a) for a in stored])

    def _begin(self, core: _core.Linear, arrays: Mapping[str, torch.Tensor]) -> None:
        nn.Module.__init__(self)
        self.scheme, self.in_features, self.out_features = core.scheme, core.in_features, core.out_features
        self.group_size = core.group_size
        self.timestep_policy: TimestepPolicyConfig | None = None
        self._now = self._ticket = None
        for name, array in arrays.items():
            self.register_buffer(name, array)
        if "bias" not in arrays:
            self.register_buffer("bias", None)  # as nn.Linear without one
        self._own_weight()

    @classmethod
    def from_linear(cls, linear: nn.Module | SimpleNamespace, scheme: str = "W8A8_DYNAMIC", *,
                    group_size: int | None = None) -> Self:
        """linear: an nn.Linear, or any module with weight [out_features, in_features] and bias. group_size: columns that share a weight
        scale (int and fp8 weights; 0 = the whole row; None = the scheme's default, 64 for int4 where they divide the columns)."""
        if not isinstance(getattr(linear, "weight", None), torch.Tensor):
            raise ValueError(f"[quantize] linear must be a module with a weight, got {type(linear).__name__}")
        if linear.weight.dtype == torch.float64:
            raise ValueError("[quantize] the weight must be float32, bfloat16 or float16, got float64: convert the model, whose inputs are float64 too")
        return cls(from_float(linear.weight, getattr(linear, "bias", None), scheme, group_size)).beside(linear)

    @classmethod
    def from_arrays(cls, scheme: str, in_features: int, arrays: Mapping[str, torch.Tensor], *,
                    group_size: int | None = None) -> Self:
        """The layer with `arrays` (names -> tensors) as its state_dict(). group_size: None infers it from the shape of the scales. Raises
        ValueError when the arrays do not fit each other."""
        if unknown := sorted(set(arrays) - set(ARRAYS)):
            raise ValueError(f"[quantize] no layer has {', '.join(unknown)}; arrays may be: {', '.join(ARRAYS)}")
        plain = {name: arrays[name].detach().cpu().contiguous() for name in ARRAYS if name in arrays}
        if group_size is None:
            scale = plain.get("weight_scale")
            grouped = scale is not None and scale.ndim == 2 and scale.shape[1] > 1
            group_size = 32 if scale is not None and scale.dtype == torch.uint8 else in_features // scale.shape[1] if scale is not None and grouped else 0
        made = packed(Layout(tuple(plain), scheme, in_features, group_size), list(plain.values()))
        layer = cls.__new__(cls)
        layer._begin(made.core, plain)
        return layer.beside(SimpleNamespace(**arrays))

    def beside(self, module: nn.Module | SimpleNamespace) -> Self:
        """The layer, where the weight of that module is."""
        weight = getattr(module, "weight", None)
        return self.to(weight.device) if isinstance(weight, torch.Tensor) and weight.is_cuda else self

    def _stored(self) -> tuple[Layout, list[torch.Tensor]]:
        names = tuple([n for n in ARRAYS if self._buffers.get(n) is not None])
        return Layout(names, self.scheme, self.in_features, self.group_size), [self._buffers[n] for n in names]

    def check_intact(self) -> None:
        """OSError where the arrays are views of a file that has been shortened since: they have lost bytes. What runs goes on running."""
        if self._check_file is not None:
            self._check_file()

    def _own_weight(self) -> None:
        weight = self._buffers.get("weight")
        if weight is not None and weight.is_cpu:
            self._own = weakref.ref(weight)

    def _current(self) -> tuple[Packed, list[torch.Tensor]]:
        """The kernel's form of the arrays as they are now, and the arrays: it borrows them, and another thread may exchange the layer's at any
        time, so whoever runs it holds them. ValueError when they no longer fit each other."""
        layout, arrays = self._stored()
        now, seen = self._now, [state_of(a) for a in arrays]
        made = now[0]() if now is not None and now[1] == seen else None
        if made is None:
            place = self._where(arrays)
            stranger = place != self._place and (self._own is None or self._own() is not arrays[0])
            if stranger or self._source("weight", arrays[0]) is not None:
                # Set one by one, without a word to the module (accelerate's device maps). The same tensor with other memory (diffusers' group
                # offloading) stays, for it will be brought back.
                return self._follow(layout, arrays, place)
            made = packed(layout, arrays, place)
            self.check_intact()
            self._now = (weakref.ref(made, _forgets_ticket(self)), seen)
            self._own_weight()
            self._ticket = made.ticket(arrays) if self._place.type != "cpu" else None
        return made, arrays

    def _where(self, arrays: Sequence[torch.Tensor]) -> torch.device:
        return arrays[0].device if arrays and arrays[0].is_cuda else self._place

    def _follow(self, layout: Layout, arrays: Sequence[torch.Tensor], place: torch.device) -> tuple[Packed, list[torch.Tensor]]:
        """To where the arrays are; back to as it was if that fails."""
        try:
            self._to_host(layout, arrays)
            self._move(self._place, place)
            return self._current()
        except BaseException:
            self._buffers.update(zip(layout.names, arrays))
            raise

    def packed(self) -> Packed:
        """The kernel's form of the arrays as they are now. ValueError when they no longer fit each other."""
        return self._current()[0]

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # named as nn.Linear's, so that calls by keyword go on working
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            input = _as_autocast(input)
        if nobody_watches(input):
            made, _arrays = self._current()
            return multiply(made, input, self.timestep_policy)
        if not hasattr(type(input), "__torch_function__"):
            raise ValueError(f"[linear] x must be a torch tensor, got {type(input).__name__}")
        (names, *layout), arrays = self._stored()
        if isinstance(input, torch.Tensor) and (input.is_cpu or input.is_cuda) and input.device != self._where(arrays) and not exporting():
            raise _elsewhere(input, self._where(arrays))
        if self._ticket is not None and torch.compiler.is_dynamo_compiling() and not (input.requires_grad and torch.is_grad_enabled()):
            names, arrays = (_TICKET,), [self._ticket]  # CUDA graphs take nothing from the CPU
        call = _Transformed.apply if transformed() else torch.ops.aerogel.linear
        return call(input, arrays, ",".join(names), *layout, self._policy_text())

    def _policy_text(self) -> str:
        policy = self.timestep_policy
        if policy is None:
            return ""
        if type(policy) is not TimestepPolicyConfig:
            raise NotImplementedError(f"[linear] a graph can hold a TimestepPolicyConfig, not the code of {type(policy).__name__}")
        return policy.text

    def dequantized(self) -> torch.Tensor:
        """The float32 matrix [out_features, in_features] that x is multiplied with."""
        made, _arrays = self._current()
        weight = _dequantized(made, self._buffers.get("mul_scale")).to(made.place)
        self.check_intact()
        return weight

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        return sent(value, self._place) if name in ARRAYS and value is not None and value.is_cpu and self._place.type != "cpu" else value

    def weight_bytes(self) -> int:
        """Bytes of the stored arrays."""
        return sum(b.numel() * b.element_size() for b in self.buffers(recurse=False))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self._buffers.get('bias') is not None}, scheme={self.scheme}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.check_intact()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        layout, arrays = self._stored()
        before = self._where(arrays)
        probe = fn(torch.empty(0, device=before))
        if probe.device.type != "cpu" and (why := why_not_here(probe)):
            raise NotImplementedError(f"[linear] {self.scheme} layers run {why.replace(', got', ', not on')}")
        stream_of(probe.device)  # or why this build has no GPUs, before anything is moved
        self._to_host(layout, arrays)
        arrays = self._stored()[1]
        stored, stays = {id(array) for array in arrays}, probe.is_cuda

        def keeping_types(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in stored:
                return fn(tensor)
            moved = tensor if stays else fn(tensor)
            return tensor if moved.dtype != tensor.dtype else moved

        super()._apply(keeping_types, recurse)
        self._move(before, probe.device)
        return self

    def _to_host(self, layout: Layout, arrays: Sequence[torch.Tensor]) -> None:
        """The arrays lie on the CPU wherever the layer is."""
        for name, array in zip(layout.names, arrays):
            if array.is_cuda:
                source = self._source(name, array)
                self._buffers[name] = array.cpu() if source is None else source.detach()
                if name == "weight" and source is not None:  # when it goes, the form made of it waits for it
                    weakref.finalize(self._buffers[name], leave, [source], CPU).atexit = False

    def _source(self, name: str, array: torch.Tensor) -> torch.Tensor | None:
        """What an array on a GPU is a copy of, where accelerate says so: its hooks that offload bring copies and take them away at every call."""
        weights = getattr(self.__dict__.get("_hf_hook"), "weights_map", None) if array.is_cuda else None
        source = weights[name] if weights is not None and name in weights else None
        if not isinstance(source, torch.Tensor) or not source.is_cpu or not source.is_contiguous():
            return None
        return source if (source.dtype, source.shape) == (array.dtype, array.shape) else None

    def _move(self, before: torch.device, place: torch.device) -> None:
        """From now on the layer computes there; what was made of its arrays for other devices is given back. As it was if that fails."""
        kept = self._place, self._now, self._ticket
        self._place = place
        if place != before or self._now is None:
            self._now = self._ticket = None
        self._own_weight()
        try:
            if place.type != "cpu":
                self._current()
        except BaseException:
            self._place, self._now, self._ticket = kept
            raise
        leave(self._stored()[1], place)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        before = self._load_state_dict_pre_hooks, self._non_persistent_buffers_set
        try:
            for hook in self._load_state_dict_pre_hooks.values():
                hook(state_dict, prefix, *rest)
            given = {name: state_dict[prefix + name] for name in ARRAYS if prefix + name in state_dict}
            self._load_arrays(given, prefix, *rest)
            # What is left for torch: parameters, buffers and state that a subclass has besides.
            self._load_state_dict_pre_hooks, self._non_persistent_buffers_set = OrderedDict(), before[1] | set(ARRAYS)
            super()._load_from_state_dict({k: v for k, v in state_dict.items() if k not in {prefix + n for n in given}}, prefix, *rest)
        finally:
            self._load_state_dict_pre_hooks, self._non_persistent_buffers_set = before

    def _load_arrays(self, given: dict[str, Any], prefix: str, metadata: Mapping[str, Any], strict: bool, *told: list[str]) -> None:
        """All that came, or nothing and a word why; told: lists of missing keys, unexpected keys and errors."""
        layout, arrays = self._stored()
        own = dict(zip(layout.names, arrays))
        try:
            taken = fitting(layout, given, own)
        except (ValueError, NotImplementedError) as error:
            told[2].append(f"{prefix.removesuffix('.') or type(self).__name__}: {error}; this layer stays as it was")
            return
        if strict:
            told[0].extend(prefix + name for name in own if name not in taken)
            told[1].extend(prefix + name for name in given if name not in own)
        for name, array in taken.items():
            if metadata.get("assign_to_params_buffers", False):
                self._buffers[name] = array
            else:
                with torch.no_grad():
                    own[name].copy_(array)
        if taken and self._place.type != "cpu":
            self._current()  # graphs take the form that is there

    def __getstate__(self) -> dict[str, Any]:
        self.check_intact()
        return {**self.__dict__, "_now": None, "_ticket": None, "_own": None, "_check_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._place.type == "cuda" and torch.cuda.device_count() <= (self._place.index or 0):
            self._place = CPU  # saved on a machine with more GPUs
        self._own_weight()

    def __prepare_scriptable__(self) -> Self:
        raise NotImplementedError("[linear] torch.jit.script cannot read a quantized layer: use torch.jit.trace or torch.export")


def _forgets_ticket(layer: QuantizedLinear) -> Callable[[Any], None]:
    """The ticket is memory of the form, and goes with it."""
    me = weakref.ref(layer)

    def forget(_form: Any) -> None:
        if (layer := me()) is not None:
            layer._ticket = None

    return forget


def place_of(module: nn.Module) -> torch.device:
    """The GPU that a module's layers and parameters are on, else the CPU."""
    layers = (m._place for m in module.modules() if isinstance(m, QuantizedLinear))
    return next((place for place in (*layers, *(p.device for p in module.parameters())) if place.type == "cuda"), CPU)


def _dequantized(made: Packed, mul_scale: torch.Tensor | None) -> torch.Tensor:
    weight = torch.from_numpy(made.core.dequantized())
    return weight if mul_scale is None else weight * mul_scale.cpu()


_TICKET = "ticket"  # stands for the names where a graph has Packed.ticket() instead of the arrays

# The arrays and what they mean (names with commas between them), so that a graph holds all of a layer.
_LAYER = "Tensor[] arrays, str names, str scheme, int in_features, int group_size"


def _layout(names: str, *rest: Any) -> Layout:
    return Layout(tuple(names.split(",")), *rest)


@torch.library.custom_op("aerogel::linear", mutates_args=(), schema=f"(Tensor x, {_LAYER}, str policy) -> Tensor")
def _linear(x: torch.Tensor, arrays: Sequence[torch.Tensor], *layer: Any) -> torch.Tensor:
    if layer[0] == _TICKET:
        made = of_ticket(arrays[0])
    else:
        made = packed(_layout(*layer[:-1]), arrays, next((t.device for t in (*arrays[:1], x) if t.is_cuda), CPU))
    return multiply(made, x, policy_from(layer[-1]) if layer[-1] else None)


@_linear.register_fake
def _(x: torch.Tensor, arrays: Sequence[torch.Tensor], *layer: Any) -> torch.Tensor:
    if x.ndim < 1 or x.shape[-1] != layer[2]:
        raise ValueError(f"[linear] x must have {layer[2]} columns, got {list(x.shape)}")
    return x.new_empty(*x.shape[:-1], arrays[0].shape[0])


@torch.library.custom_op("aerogel::linear_weight", mutates_args=(), schema=f"({_LAYER}) -> Tensor")
def _linear_weight(arrays: Sequence[torch.Tensor], *layer: Any) -> torch.Tensor:
    layout = _layout(*layer)
    return _dequantized(packed(layout, [a.cpu() for a in arrays]), dict(zip(layout.names, arrays)).get("mul_scale"))


@_linear_weight.register_fake
def _(arrays: Sequence[torch.Tensor], *layer: Any) -> torch.Tensor:
    return arrays[0].new_empty((arrays[0].shape[0], layer[2]), dtype=torch.float32, device="cpu")


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1])
    ctx.layer = inputs[2:-1]


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    arrays = ctx.saved_tensors
    weight = torch.ops.aerogel.linear_weight(arrays, *ctx.layer).to(grad.device)
    return (grad.float() @ weight).to(grad.dtype), [None] * len(arrays), *([None] * 5)


class _Transformed(torch.autograd.Function):
    """The operator for torch.func and forward-mode differentiation, which registered operators do not take."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> torch.Tensor:
        return torch.ops.aerogel.linear(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.of = inputs[1:-1]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return (grad.float() @ torch.ops.aerogel.linear_weight(*ctx.of).to(grad.device)).to(grad.dtype), *([None] * 6)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *rest: Any) -> torch.Tensor:
        return (tangent.float() @ torch.ops.aerogel.linear_weight(*ctx.of).T.to(tangent.device)).to(tangent.dtype)


def _batched(info: Any, in_dims: Sequence[Any], x: torch.Tensor, arrays: Sequence[torch.Tensor], *layer: Any) -> tuple[torch.Tensor, int]:
    if any(dim is not None for dim in in_dims[1]):
        raise NotImplementedError("[linear] torch.func.vmap over the arrays of a quantized layer is not supported; over its input it is")
    return torch.ops.aerogel.linear(x.movedim(in_dims[0], 0), arrays, *layer), 0


_linear.register_autograd(_backward, setup_context=_keep)
_linear.register_vmap(_batched)
