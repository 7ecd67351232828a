"""Quantized attention of diffusers' layers: threads keep apart, plans know their sizes, and a layer that attends in its own way stays float."""
import threading

import aerogel
import pytest
import torch
from aerogel.diffusers.backend import running
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import _get_current_function_mode_stack

diffusers = pytest.importorskip("diffusers")


def cogvideox():
    torch.manual_seed(0)
    return diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16, num_layers=2,
        sample_width=8, sample_height=8, sample_frames=5, max_text_seq_length=7).eval()


def wan():
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4,
                                           text_dim=16, freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=64).eval()


def quantized(model, pattern="*.attn1", kind="MXFP4_DYNAMIC"):
    return aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A8_DYNAMIC", fa_layers=pattern, fa_quant_type=kind),
                            include=["*.ff*.*"])


@pytest.mark.parametrize("prepare", [quantized, lambda model: aerogel.enable_sparse_attention(model, sparse_type=None)],
                         ids=["quantized", "plan"])
@torch.no_grad()
def test_threads_leave_nothing_behind(prepare):
    model = cogvideox()
    prepare(model)
    x = dict(hidden_states=torch.randn(1, 2, 4, 8, 8), timestep=torch.tensor([3]), encoder_hidden_states=torch.randn(1, 7, 16), return_dict=False)
    want, left = model(**x)[0], []

    @torch.no_grad()
    def work():
        same = all(torch.allclose(model(**x)[0], want, atol=1e-4) for _ in range(20))  # a plan that another thread has left attends by torch
        left.append((same, len(_get_current_function_mode_stack()), running.get()))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left == [(True, 0, None)] * 4
    q = torch.randn(1, 2, 16, 32)
    assert torch.equal(scaled_dot_product_attention(q, q, q), scaled_dot_product_attention(q.clone(), q, q))


@torch.no_grad()
def test_an_error_inside_of_a_layer_does_not_reach_the_next_model():
    broken, model = wan(), wan()
    quantized(broken)
    quantized(model, kind="FP8_DYNAMIC")
    x = dict(hidden_states=torch.randn(1, 4, 2, 8, 8), timestep=torch.tensor([3]), encoder_hidden_states=torch.randn(1, 7, 16), return_dict=False)
    want = model(**x)[0]
    broken.blocks[1].attn1.to_out[0].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken(**x)
    assert torch.equal(model(**x)[0], want)


@torch.no_grad()
def test_a_processor_that_attends_in_its_own_way_stays_float():
    torch.manual_seed(0)
    attention = diffusers.models.attention_processor.Attention(64, heads=2, dim_head=32)
    attention.set_processor(diffusers.models.attention_processor.AttnProcessor())
    model = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"attn1": attention, "ff": torch.nn.Linear(64, 64)})])})
    report = aerogel.quantize(model, online_config=aerogel.OnlineQuantConfig("W8A8_DYNAMIC", fa_layers="*.attn1", fa_quant_type="FP8_DYNAMIC"),
                              include=["*.ff"])
    assert report.attention == {}
    assert list(report.attention_in_float) == ["blocks.0.attn1"] and "AttnProcessor" in report.attention_in_float["blocks.0.attn1"]


@torch.no_grad()
def test_kept_plans_are_of_one_grid():
    def x(height, width, batch=2, timestep=900):
        torch.manual_seed(1)
        return dict(hidden_states=torch.randn(batch, 4, 4, height, width), timestep=torch.full((batch,), timestep),
                    encoder_hidden_states=torch.randn(batch, 7, 16), return_dict=False)

    fresh, used = wan(), wan()
    for model in (fresh, used):
        aerogel.enable_sparse_attention(model, sparsity=0.5, block_size=16, mask_refresh_steps=10)
    used(**x(32, 32))
    want = fresh(**x(16, 64, timestep=800))[0]
    assert torch.equal(used(**x(16, 64, timestep=800))[0], want)
    assert used(**x(16, 64, batch=1, timestep=700))[0].shape == (1, 4, 4, 16, 64)
