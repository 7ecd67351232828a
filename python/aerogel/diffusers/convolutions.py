"""The convolutions of VAEs by the core, channels last (Winograd's where a kernel has 3 x 3 taps: Lavin and Gray, arXiv 1509.09308), and the
normalisation of what they give."""
from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageRMS_norm
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from .. import _core
from .._arrays import empty, handed
from .._packed import state_of
from .._watching import nobody_watches, unseen
from .norms import rms_norm

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Packed(NamedTuple):
    """A convolution's weights in the core's form, and of what it was made; nothing else can have the addresses of storages that are held."""

    made_of: tuple[Any, ...]
    storages: list[StorageWeakRef]
    core: Any


_packed: weakref.WeakKeyDictionary[nn.Module, Packed] = weakref.WeakKeyDictionary()


def fits(conv: Any, x: torch.Tensor) -> bool:
    """Whether the core computes this, and nobody has exchanged a part of it."""
    plain = conv.padding_mode == "zeros" and conv.groups == 1 and set(conv.dilation) == {1} and not isinstance(conv.padding, str)
    right = x.ndim == conv.weight.ndim and x.shape[1] == conv.in_channels and x.dtype == conv.weight.dtype and x.dtype in _FLOATS and x.numel() > 0
    return plain and right and conv.weight.is_cpu and "_conv_forward" not in vars(conv) and unseen(conv, x)


def convolve(conv: Any, x: torch.Tensor, padding: Sequence[int], before: torch.Tensor | None = None) -> torch.Tensor | None:
    """x [frames, channels, height, width] -> y likewise, its channels side by side in memory; computed in float32. padding: zeros in front of the
    frames, of which `before`, the last frames before x, take the place of as many, and on both sides of lines and columns. None for an x that
    is smaller than the kernel."""
    kernel, stride = (1, *conv.kernel_size)[-3:], (1, *conv.stride)[-3:]
    around = (padding[0], 2 * padding[1], 2 * padding[2])
    sizes = [(n + more - size) // step + 1 for n, more, size, step in zip((x.shape[0], *x.shape[2:]), around, kernel, stride)]
    if min(sizes) < 1:
        return None
    inputs = [None if side is None else side.permute(0, 2, 3, 1).float().contiguous() for side in (x, before)]
    y = empty((*sizes, conv.out_channels), inputs[0])
    _core_of(conv, stride, padding).run(handed(inputs[0]), handed(y), None if inputs[1] is None else handed(inputs[1]))
    return y.to(x.dtype).permute(0, 3, 1, 2)


def _core_of(conv: Any, stride: Sequence[int], padding: Sequence[int]) -> Any:
    arrays = [array.detach() for array in (conv.weight, conv.bias) if array is not None]
    made_of = (tuple(stride), tuple(padding), *(state_of(array) for array in arrays))
    made = _packed.get(conv)
    if made is None or made.made_of != made_of:
        bias = arrays[1].float().contiguous() if len(arrays) > 1 else None
        core = _core.Convolution(arrays[0].contiguous(), bias, *made_of[:2])
        made = _packed[conv] = Packed(made_of, [StorageWeakRef(array.untyped_storage()) for array in arrays], core)
    return made.core


def forget(module: nn.Module) -> None:
    """Gives back the memory of what was packed for a module."""
    _packed.pop(module, None)


class FusedConv2d(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        y = convolve(self, input, (0, *self.padding)) if fits(self, input) else None
        return super().forward(input) if y is None else y


def _continues(cache: torch.Tensor, x: torch.Tensor, front: int) -> bool:
    return cache.is_cpu and cache.dtype == x.dtype and not (cache.shape[2] > front > 0) and nobody_watches(cache)


def _causal(conv: Any, x: torch.Tensor, cache: torch.Tensor | None) -> torch.Tensor | None:
    """A convolution that looks back in time only; `cache` has the frames before x. conv._padding is F.pad's."""
    right, _, bottom, _, front, _ = conv._padding
    if not fits(conv, x) or (cache is not None and not _continues(cache, x, front)):
        return None
    remembered = cache if front > 0 else None
    items = [convolve(conv, one.transpose(0, 1), (front, bottom, right), None if remembered is None else remembered[i].transpose(0, 1))
             for i, one in enumerate(x)]
    whole = [item for item in items if item is not None]
    if len(whole) < len(items):
        return None
    return whole[0].transpose(0, 1)[None] if len(whole) == 1 else torch.stack(whole).transpose(1, 2)


class _LooksBack(nn.Module):
    """In front of a causal convolution of diffusers."""

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        y = _causal(self, x, cache_x)
        return super().forward(x, cache_x) if y is None else y


class FusedWanConv3d(_LooksBack, WanCausalConv3d):
    pass


class FusedQwenImageConv3d(_LooksBack, QwenImageCausalConv3d):
    pass


def _over_channels(norm: Any, x: torch.Tensor) -> torch.Tensor | None:
    """x / |x| * sqrt(channels) * gamma, where the channels of a pixel lie side by side."""
    gamma, last = norm.gamma, x.movedim(1, -1)
    plain = norm.channel_first and not isinstance(norm.bias, torch.Tensor) and x.ndim > 2 and x.shape[1] == gamma.numel() and x.numel() > 0
    if not plain or not last.is_contiguous() or {x.dtype, gamma.dtype} != {torch.float32} or not gamma.is_cpu or not unseen(norm, x):
        return None
    return rms_norm(last, gamma, 1e-24).movedim(-1, 1)


class _OverChannels(nn.Module):
    """In front of a norm of diffusers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = _over_channels(self, x)
        return super().forward(x) if y is None else y


class FusedWanNorm(_OverChannels, WanRMS_norm):
    pass


class FusedQwenImageNorm(_OverChannels, QwenImageRMS_norm):
    pass


CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FusedConv2d, WanCausalConv3d: FusedWanConv3d, QwenImageCausalConv3d: FusedQwenImageConv3d, WanRMS_norm: FusedWanNorm,
    QwenImageRMS_norm: FusedQwenImageNorm}
