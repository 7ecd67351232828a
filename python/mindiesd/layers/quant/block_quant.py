"""Arrays in E4M3 with a float32 scale per block of tokens and channels, as FP8 attention takes q, k and v."""
from typing import Any

import torch
import torch.nn.functional as F

from ...utils.exception import ParametersInvalid, require

_OP = "fa_block_quant_preprocess"
_LARGEST = 448.0


def _blocks(name: str, size: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ParametersInvalid(f"[{_OP}] {name} must be a whole number from 1 on, got {size!r}")
    return size


def fa_block_quant_preprocess(input_tensor: torch.Tensor, block_size: int = 128, col_block_size: int = 128, dst_type: Any = None,
                              **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(quantized, scales) of q, k or v.

    input_tensor: [batch, heads, tokens, head_dim], or [batch, tokens, heads, head_dim] with layout="BSND". block_size, col_block_size: tokens
    and channels that share a scale, max / 448. dst_type: torch.float8_e4m3fn or None, which means it.
    Returns E4M3 [batch, heads, tokens, head_dim] and float32 [batch, heads, ceil(tokens / block_size), ceil(head_dim / col_block_size)]:
    input = quantized * scale. Raises ParametersInvalid for what does not fit."""
    layout = kwargs.pop("layout", "BNSD")
    if kwargs:
        raise TypeError(f"{_OP}() got an unexpected keyword argument {next(iter(kwargs))!r}")
    require(_OP, "input_tensor", input_tensor, torch.Tensor)
    rows, columns = _blocks("block_size", block_size), _blocks("col_block_size", col_block_size)
    if input_tensor.dim() != 4 or layout not in ("BNSD", "BSND"):
        raise ParametersInvalid(f"[{_OP}] input_tensor must have 4 axes in layout BNSD or BSND, got {list(input_tensor.shape)} in {layout!r}")
    if dst_type not in (None, torch.float8_e4m3fn):
        raise ParametersInvalid(f"[{_OP}] dst_type must be torch.float8_e4m3fn, got {dst_type}")
    x = (input_tensor if layout == "BNSD" else input_tensor.transpose(1, 2)).float()
    tokens, channels = x.shape[2:]
    padded = F.pad(x, (0, -channels % columns, 0, -tokens % rows))
    blocks = padded.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # [B, N, row blocks, rows, column blocks, columns]
    scales = blocks.abs().amax(dim=(3, 5)) / _LARGEST
    scales = torch.where(scales == 0, 1.0, scales)
    quantized = (blocks / scales[:, :, :, None, :, None]).clamp(-_LARGEST, _LARGEST).flatten(4, 5).flatten(2, 3)
    return quantized[:, :, :tokens, :channels].to(torch.float8_e4m3fn), scales
