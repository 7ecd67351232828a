"""A layer's array as it would lie on the layer's GPU. Models ask their layers for the type and the device of a weight at every call (T5 of
transformers does): only who asks for numbers gets a copy."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map


class _Sent(torch.Tensor):
    """Shape, type and device without memory; every operation works with a copy on the device, which is made once."""

    _stored: torch.Tensor
    _copy: torch.Tensor | None
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, stored: torch.Tensor, place: torch.device) -> _Sent:
        with torch.inference_mode(False), torch.no_grad():
            made: _Sent = torch.Tensor._make_wrapper_subclass(cls, stored.shape, strides=stored.stride(), dtype=stored.dtype, device=place)
        made._stored, made._copy = stored, None
        return made

    def _here(self) -> torch.Tensor:
        if self._copy is None:
            self._copy = self._stored.to(self.device)
        return self._copy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.ops.aten._to_copy.default and kwargs and torch.device(kwargs.get("device") or "cpu").type == "meta":
            return func(args[0]._stored, **kwargs)
        copies = tree_map(lambda value: value._here() if isinstance(value, _Sent) else value, (tuple(args), dict(kwargs or {})))
        return func(*copies[0], **copies[1])

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self._here().clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._here().__reduce_ex__(protocol)

    def __dlpack__(self, **more: Any) -> Any:
        return self._here().__dlpack__(**more)

    def data_ptr(self) -> int:
        return self._here().data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self._here().untyped_storage()


def sent(stored: torch.Tensor, place: torch.device) -> torch.Tensor:
    """The array on that device, copied when its numbers are first asked for."""
    return stored.to(place) if torch.compiler.is_dynamo_compiling() else _Sent(stored, place)
