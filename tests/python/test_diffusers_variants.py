"""Sparse attention in further video transformers of diffusers: one forward each, against the same with the tokens ordered by hand."""
import aerogel
import pytest
import torch
from diffusers import (CogVideoXTransformer3DModel, HunyuanVideo15Transformer3DModel, MochiTransformer3DModel, SkyReelsV2Transformer3DModel,
                       WanVACETransformer3DModel)
from test_diffusers_attention import ALL_KEPT, HALF, ByHand
from tiny_pipelines import TEXT, relative

pytestmark = pytest.mark.usefixtures("one_thread")

HEADS = {"num_attention_heads": 2, "attention_head_dim": 32}
WAN = dict(patch_size=(1, 2, 2), in_channels=4, out_channels=4, text_dim=TEXT, freq_dim=32, ffn_dim=96, rope_max_seq_len=32, **HEADS)


def _wan_vace():
    model = WanVACETransformer3DModel(**WAN, num_layers=2, vace_layers=[0], vace_in_channels=4)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([9.0]), encoder_hidden_states=torch.randn(1, 9, TEXT),
                       control_hidden_states=torch.randn(1, 4, 7, 20, 16)), ("none", 0), 3


def _skyreels():
    model = SkyReelsV2Transformer3DModel(**WAN, num_layers=2)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([9.0]),
                       encoder_hidden_states=torch.randn(1, 9, TEXT)), ("none", 0), 2


def _hunyuan15():
    """Three kinds of text, each with padding of its own, that the model sorts; without an image all of that kind is padding."""
    model = HunyuanVideo15Transformer3DModel(in_channels=4, out_channels=4, num_layers=2, num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=TEXT,
                                             text_embed_2_dim=16, image_embed_dim=16, rope_axes_dim=(4, 14, 14), **HEADS)
    mask, mask_2 = torch.tensor([[1, 1, 1, 1, 0]]), torch.tensor([[1, 1, 0]])
    return model, dict(hidden_states=torch.randn(1, 4, 7, 10, 8), timestep=torch.tensor([9.0]), encoder_hidden_states=torch.randn(1, 5, TEXT),
                       encoder_attention_mask=mask, encoder_hidden_states_2=torch.randn(1, 3, 16), encoder_attention_mask_2=mask_2,
                       image_embeds=torch.zeros(1, 4, 16)), ("behind", 6), 2


def _cogvideox15():
    """Patches of two frames."""
    model = CogVideoXTransformer3DModel(in_channels=4, out_channels=4, text_embed_dim=TEXT, num_layers=2, time_embed_dim=8, sample_width=16,
                                        sample_height=20, sample_frames=53, max_text_seq_length=9, patch_size_t=2, patch_bias=False,
                                        use_rotary_positional_embeddings=True, **HEADS)
    return model, dict(hidden_states=torch.randn(2, 14, 4, 20, 16), timestep=torch.tensor([9, 9]),
                       encoder_hidden_states=torch.randn(2, 9, TEXT)), ("front", 9), 2


def _mochi():
    model = MochiTransformer3DModel(in_channels=4, num_layers=2, pooled_projection_dim=16, text_embed_dim=TEXT, time_embed_dim=8,
                                    max_sequence_length=9, **HEADS)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), encoder_hidden_states=torch.randn(1, 9, TEXT), timestep=torch.tensor([9.0]),
                       encoder_attention_mask=torch.tensor([[True] * 6 + [False] * 3])), ("behind", 6), 2


@pytest.mark.parametrize("make", [_wan_vace, _skyreels, _hunyuan15, _cogvideox15, _mochi])
@torch.no_grad()
def test_one_forward(make):
    torch.manual_seed(3)
    model, inputs, text, layers = make()
    for name, value in model.eval().named_parameters():
        if name.endswith(("norm_q.weight", "norm_k.weight")):
            value.mul_(4)  # attention that makes a difference

    def run():
        return model(**inputs, return_dict=False)[0]

    exact = run()
    with ByHand(text, **HALF) as by_hand:
        wanted = run()
    plan = aerogel.enable_sparse_attention(model, **HALF)
    assert relative(run(), wanted) < 1e-5 < 1e-3 < relative(wanted, exact)
    assert by_hand.calls == layers == sum(c.sparse for c in plan.report.layers.values()) and plan.report.why == {}
    plan.disable()
    aerogel.enable_sparse_attention(model, **ALL_KEPT)
    assert relative(run(), exact) < 1e-5


@torch.no_grad()
def test_causal_masks_stay_dense():
    model = SkyReelsV2Transformer3DModel(**{**WAN, "num_frame_per_block": 7}, num_layers=1)
    plan = aerogel.enable_sparse_attention(model.eval(), **HALF)
    model(torch.randn(1, 4, 7, 20, 16), torch.tensor([9.0]), torch.randn(1, 9, TEXT))
    assert plan.report.why == {"an attention mask is given": 1}


@torch.no_grad()
def test_timesteps_of_mochi_rise():
    model, inputs, *_ = _mochi()
    plan = aerogel.enable_sparse_attention(model.eval(), start_step=1, end_step=2, **HALF)
    for timestep in (0.0, 0.0, 300.0, 700.0, 0.0, 500.0):  # two videos, the first with two forwards in its first step
        model(**{**inputs, "timestep": torch.tensor([timestep])})
    assert plan.report.layers["transformer_blocks.0.attn1"].sparse == 2
    assert plan.report.why == {"the step is before start_step 1": 6, "the step is not before end_step 2": 2}


