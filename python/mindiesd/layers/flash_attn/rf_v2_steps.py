"""The steps of RainFusion's block means (arXiv 2512.24086) one at a time, for callers that choose the blocks themselves: tokens in the order of
8 x 8 tiles of each frame, means of blocks, which blocks to keep. `sparse_attention(sparse_type="rf_v2")` does all of them in the core."""
import math
from collections.abc import Sequence

import torch

from ...utils.exception import ParametersInvalid

_TILE = 8


def _axis(layout: str) -> int:
    if layout not in ("BNSD", "BSND"):
        raise ParametersInvalid(f"[rf_v2] input_layout must be BNSD or BSND, got {layout!r}")
    return 2 if layout == "BNSD" else 1


def _tiled(frames: torch.Tensor) -> torch.Tensor:
    """[frames, h, w] of token numbers -> [frames, h * w]: tiles of 8 x 8 row by row, then the rows and then the columns that fill none."""
    count, height, width = frames.shape
    h, w = height - height % _TILE, width - width % _TILE
    tiles = frames[:, :h, :w].reshape(count, h // _TILE, _TILE, w // _TILE, _TILE).transpose(2, 3)
    return torch.cat([tiles.flatten(1), frames[:, h:].flatten(1), frames[:, :h, w:].flatten(1)], dim=1)


def tile_order(latent_shape: Sequence[int]) -> torch.Tensor:
    """Which token of a video (frames, height, width) comes where. Where tiles do not fill the frames, the first frame stays as it is."""
    count, height, width = (int(n) for n in latent_shape)
    tokens = torch.arange(count * height * width).reshape(count, height, width)
    if height % _TILE or width % _TILE:
        return torch.cat([tokens[0].flatten(), _tiled(tokens[1:]).flatten()])
    return _tiled(tokens).flatten()


def rearrange_with_remaining(tensor: torch.Tensor, latent_shape_q: Sequence[int], latent_shape_k: Sequence[int], input_layout: str) -> torch.Tensor:
    """The tokens of a video in the order of tiles."""
    return tensor.index_select(_axis(input_layout), tile_order(latent_shape_q))


def inv_rearrange_with_remaining(tensor: torch.Tensor, latent_shape_q: Sequence[int], latent_shape_k: Sequence[int],
                                 input_layout: str) -> torch.Tensor:
    """Undoes rearrange_with_remaining."""
    return tensor.index_select(_axis(input_layout), tile_order(latent_shape_q).argsort())


def avgpool(input_tensor: torch.Tensor, pool_size: int = 128, input_layout: str = "BNSD") -> torch.Tensor:
    """Means of pool_size tokens each, the last of what is left."""
    axis = _axis(input_layout)
    return torch.cat([part.mean(dim=axis, keepdim=True) for part in input_tensor.split(pool_size, dim=axis)], dim=axis)


def do_tensor_rearrange_pooling(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, text_len: int, pool_size: int,
                                latent_shape_q: Sequence[int], latent_shape_k: Sequence[int], input_layout: str,
                                ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(q, k, v, means of their blocks, q, k and v behind each other in the batch): the video in the order of tiles, the text_len tokens before
    it behind it."""
    axis = _axis(input_layout)
    everything = torch.cat((query, key, value))
    text, video = everything.split([text_len, everything.shape[axis] - text_len], dim=axis)
    moved = torch.cat((rearrange_with_remaining(video, latent_shape_q, latent_shape_k, input_layout), text), dim=axis)
    q, k, v = moved.chunk(3)
    return q, k, v, avgpool(moved, pool_size, input_layout)


def do_tensor_inv_rearrange(tensor: torch.Tensor, text_len: int, latent_shape_q: Sequence[int], latent_shape_k: Sequence[int],
                            input_layout: str) -> torch.Tensor:
    """Undoes the order of do_tensor_rearrange_pooling."""
    axis = _axis(input_layout)
    video, text = tensor.split([tensor.shape[axis] - text_len, text_len], dim=axis)
    return torch.cat((text, inv_rearrange_with_remaining(video, latent_shape_q, latent_shape_k, input_layout)), dim=axis)


def get_mask_index(mask: torch.Tensor) -> torch.Tensor:
    """int64 like the mask: in each row the places of what is true, then -1."""
    places = torch.arange(mask.shape[-1]).expand(mask.shape)
    ordered = torch.where(mask, places, mask.shape[-1]).sort(dim=-1).values
    return torch.where(ordered < mask.shape[-1], ordered, -1)


def get_blockwise_mask(qkv_pool: torch.Tensor, txt_len: int, sparsity: float, scale: float, pool_size: int, latent_shape_q: Sequence[int],
                       latent_shape_k: Sequence[int], input_layout: str, return_binary: bool = False, protect_first_frame: bool = True,
                       ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Which blocks to compute: in each row the ceil(blocks * (1 - sparsity)) of the largest softmax(scale q k^T) of the means, and all rows and
    columns of text and, with protect_first_frame, of the first frame.

    Returns (select_idx, select_num_idx) as rain_fusion_attention takes them, or int8 [batch, heads, blocks, blocks] with return_binary.
    Raises ParametersInvalid for a sparsity outside of [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise ParametersInvalid(f"[rf_v2] sparsity must be at least 0 and below 1, got {sparsity!r}")
    q, k, _ = (t if input_layout == "BNSD" else t.transpose(1, 2) for t in qkv_pool.chunk(3))
    weights = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    kept = math.ceil(weights.shape[-1] * (1 - sparsity))
    mask = weights >= weights.topk(kept, dim=-1).values[..., -1:]
    text = -(-txt_len // pool_size)
    first = -(-int(latent_shape_q[1]) * int(latent_shape_q[2]) // pool_size) if protect_first_frame else 0
    for blocks in (slice(mask.shape[-1] - text, None), slice(0, first)):
        mask[:, :, blocks] = True
        mask[..., blocks] = True
    if return_binary:
        return mask.to(torch.int8)
    by_block = mask.transpose(1, 2).flatten(0, 1)  # [batch * blocks, heads, blocks]
    return get_mask_index(by_block), by_block.sum(dim=-1)
