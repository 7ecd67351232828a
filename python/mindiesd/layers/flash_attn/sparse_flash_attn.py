"""sparse_attention: aerogel's, with the parameters of MindIE SD in their order."""
from collections.abc import Sequence
from typing import Any, Optional

import aerogel
import torch

from ...utils.exception import invalid_arguments


@invalid_arguments
def sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    attn_mask: Optional[torch.Tensor] = None,
    scale: Optional[float] = None,
    is_causal: Optional[bool] = False,
    head_num: int = 1,
    input_layout: str = "BNSD",
    inner_precise: int = 0,
    sparse_type: Optional[str] = None,
    txt_len: int = 0,
    block_size: int = 128,
    latent_shape_q: Optional[Sequence[int]] = None,
    latent_shape_k: Optional[Sequence[int]] = None,
    video_spans: Optional[list[dict[str, Any]]] = None,
    keep_sink: Optional[bool] = True,
    keep_recent: Optional[bool] = True,
    cdf_threshold: float = 1.0,
    sparsity: float = 0.0,
    precision: str = "bf16",
    mxfp4_dst_type_max: float = 0.0,
    mxfp4_scale_alg: Optional[int] = None,
    **kwargs: Any,
) -> Any:
    """Attention over the blocks that matter; `aerogel.sparse_attention` explains every parameter and the errors.

    Further keywords of aerogel's (return_report, min_recall ...) are passed on; unknown ones raise TypeError."""
    newer = {"video_spans": (video_spans, None), "precision": (precision, "bf16"), "mxfp4_dst_type_max": (mxfp4_dst_type_max, 0.0),
             "mxfp4_scale_alg": (mxfp4_scale_alg, None)}
    kwargs |= {name: value for name, (value, default) in newer.items() if value != default}
    return aerogel.sparse_attention(
        q, k, v, attn_mask=attn_mask, scale=scale, is_causal=bool(is_causal), head_num=head_num, input_layout=input_layout,
        inner_precise=inner_precise, sparse_type=sparse_type, txt_len=txt_len, block_size=block_size, latent_shape_q=latent_shape_q,
        latent_shape_k=latent_shape_k, keep_sink=bool(keep_sink), keep_recent=bool(keep_recent), cdf_threshold=cdf_threshold,
        sparsity=sparsity, **kwargs)
