"""Sparse attention in further video transformers of diffusers: one forward each, against the same with the tokens ordered by hand."""
import aerogel
import pytest
import torch
from aerogel.diffusers.models import _grids
from diffusers import (AllegroTransformer3DModel, ChronoEditTransformer3DModel, CogVideoXTransformer3DModel,
                       Cosmos3OmniTransformer, CosmosTransformer3DModel,
                       EasyAnimateTransformer3DModel, HunyuanVideo15Transformer3DModel, HunyuanVideoFramepackTransformer3DModel,
                       Kandinsky5Transformer3DModel, LTX2VideoTransformer3DModel, MiniMaxH3Transformer3DModel, MochiTransformer3DModel,
                       SanaVideoTransformer3DModel, SkyReelsV2Transformer3DModel, WanAnimateTransformer3DModel, WanVACETransformer3DModel)
from diffusers.models.transformers import transformer_kandinsky
from test_diffusers_attention import ALL_KEPT, HALF, ByHand
from tiny_pipelines import GRID, TEXT, relative
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

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


def _wan_animate():
    """The face and the pose come in beside the self-attention."""
    model = WanAnimateTransformer3DModel(**{**WAN, "in_channels": 12}, latent_channels=4, num_layers=2, image_dim=8, motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
                                         motion_encoder_size=16, motion_style_dim=8, motion_dim=4, motion_encoder_dim=8, face_encoder_hidden_dim=8,
                                         face_encoder_num_heads=2, inject_face_latents_blocks=2)
    return model, dict(hidden_states=torch.randn(1, 12, 7, 20, 16), timestep=torch.tensor([9.0]), encoder_hidden_states=torch.randn(1, 9, TEXT),
                       encoder_hidden_states_image=torch.randn(1, 5, 8), pose_hidden_states=torch.randn(1, 4, 6, 20, 16),
                       face_pixel_values=torch.randn(1, 3, 21, 16, 16)), ("none", 0), 2


def _chronoedit():
    model = ChronoEditTransformer3DModel(**WAN, num_layers=2)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([9.0]), encoder_hidden_states=torch.randn(1, 9, TEXT)), ("none", 0), 2


def _framepack():
    """Frames of before stand in front of the video, in three resolutions; an image and the text behind it."""
    model = HunyuanVideoFramepackTransformer3DModel(in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0,
                                                    text_embed_dim=TEXT, pooled_projection_dim=16, rope_axes_dim=(4, 14, 14), has_image_proj=True,
                                                    image_proj_dim=16, has_clean_x_embedder=True, **HEADS)
    frames = {"latents_clean": 2, "latents_history_2x": 2, "latents_history_4x": 4}
    history = {name: torch.randn(1, 4, n, 20, 16) for name, n in frames.items()}
    history |= {f"indices_{name}": torch.arange(n) for name, n in frames.items()}
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([9]), encoder_hidden_states=torch.randn(1, 5, TEXT),
                       encoder_attention_mask=torch.tensor([[1, 1, 1, 1, 0]]), pooled_projections=torch.randn(1, 16), image_embeds=torch.randn(1, 3, 16),
                       indices_latents=torch.arange(7), guidance=torch.tensor([6.0]), **history), \
        ("spans", [{"start": 160 + 20 + 6, "latent_shape": GRID}]), 2


def _ltx2():
    """Sound is made beside the video, with attention of its own."""
    model = LTX2VideoTransformer3DModel(in_channels=8, out_channels=8, cross_attention_dim=64, audio_in_channels=4, audio_out_channels=4,
                                        audio_num_attention_heads=2, audio_attention_head_dim=16, audio_cross_attention_dim=32, num_layers=2,
                                        caption_channels=TEXT, rope_double_precision=False, **HEADS)
    return model, dict(hidden_states=torch.randn(1, 560, 8), audio_hidden_states=torch.randn(1, 9, 4), encoder_hidden_states=torch.randn(1, 9, TEXT),
                       audio_encoder_hidden_states=torch.randn(1, 9, TEXT), timestep=torch.tensor([500.0]), num_frames=7, height=10, width=8,
                       audio_num_frames=9), ("none", 0), 2


def _allegro():
    model = AllegroTransformer3DModel(in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=64, sample_height=20, sample_width=16, sample_frames=7,
                                      caption_channels=TEXT, **HEADS)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([9]), encoder_hidden_states=torch.randn(1, 9, TEXT)), ("none", 0), 2


def _easyanimate():
    """One layer with projections of the text's own and one without."""
    model = EasyAnimateTransformer3DModel(in_channels=4, out_channels=4, patch_size=2, num_layers=2, mmdit_layers=1, time_embed_dim=8, text_embed_dim=TEXT,
                                          sample_width=16, sample_height=20, **HEADS)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([9]), encoder_hidden_states=torch.randn(1, 9, TEXT)), ("front", 9), 2


COSMOS = dict(in_channels=4, out_channels=4, num_layers=2, mlp_ratio=2.0, adaln_lora_dim=4, max_size=(7, 20, 16), concat_padding_mask=False, **HEADS)


def _cosmos():
    model = CosmosTransformer3DModel(text_embed_dim=TEXT, **COSMOS)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.tensor([0.5]), encoder_hidden_states=torch.randn(1, 9, TEXT)), ("none", 0), 2


def _cosmos25():
    """Predict 2.5: images beside the text, a timestep per frame."""
    model = CosmosTransformer3DModel(text_embed_dim=16, use_crossattn_projection=True, crossattn_proj_in_channels=TEXT, encoder_hidden_states_channels=16,
                                     img_context_dim_in=8, img_context_num_tokens=4, img_context_dim_out=64, extra_pos_embed_type=None, **COSMOS)
    return model, dict(hidden_states=torch.randn(1, 4, 7, 20, 16), timestep=torch.full((1, 1, 7, 1, 1), 0.5),
                       encoder_hidden_states=(torch.randn(1, 9, TEXT), torch.randn(1, 4, 8))), ("none", 0), 2


def _kandinsky5():
    """Its modulation begins as zeros, which would hide all attention."""
    model = Kandinsky5Transformer3DModel(in_visual_dim=4, in_text_dim=TEXT, in_text_dim2=16, time_dim=32, out_visual_dim=4, model_dim=64, ff_dim=96,
                                         num_text_blocks=1, num_visual_blocks=2, axes_dims=(8, 12, 12))
    for name, value in model.named_parameters():
        if "modulation" in name:
            nn.init.normal_(value, std=0.6)
    return model, dict(hidden_states=torch.randn(1, 7, 20, 16, 4), encoder_hidden_states=torch.randn(1, 9, TEXT), timestep=torch.tensor([9.0]),
                       pooled_projections=torch.randn(1, 16), visual_rope_pos=[torch.arange(n) for n in GRID], text_rope_pos=torch.arange(9)), ("none", 0), 2


def _grid_positions(*shape):
    return torch.cartesian_prod(*(torch.arange(n) for n in shape))


def _minimax_h3():
    """One sequence of text, a video to go by, sound and the video that is made."""
    model = MiniMaxH3Transformer3DModel(hidden_size=48, num_layers=2, num_refiner_layers=1, ffn_dim=64, in_channels=4, audio_in_channels=6, text_dim=TEXT,
                                        freq_dim=16, time_embed_hidden_dim=32, time_embed_dim=16, rope_freq_dim=5, **HEADS)
    kinds = torch.tensor([1] * 9 + [0] * 160 + [2] * 5 + [0] * 560)
    positions = torch.cat([torch.arange(9)[:, None].expand(9, 3), _grid_positions(2, 10, 8), torch.arange(5)[:, None].expand(5, 3), _grid_positions(*GRID)])
    places = {f"{name}_indices": (kinds == kind).nonzero()[:, 0] for kind, name in enumerate(("video", "text", "audio"))}
    return model, dict(hidden_states=torch.randn(1, 720, 16), audio_hidden_states=torch.randn(1, 5, 6), encoder_hidden_states=torch.randn(1, 9, TEXT),
                       timestep=torch.tensor([0.0, 0.7]), timestep_indices=(kinds != 1).long(), token_tags=kinds, position_ids=positions, **places), \
        ("spans", [{"start": 9, "latent_shape": (2, 10, 8)}, {"start": 174, "latent_shape": GRID}]), 2


MODELS = [_wan_vace, _skyreels, _hunyuan15, _cogvideox15, _mochi, _wan_animate, _chronoedit, _framepack, _ltx2, _allegro, _easyanimate, _cosmos, _cosmos25,
          _kandinsky5, _minimax_h3]


@pytest.mark.parametrize("make", MODELS)
@torch.no_grad()
def test_one_forward(make):
    torch.manual_seed(3)
    model, inputs, text, layers = make()
    norms = [value for name, value in model.eval().named_parameters() if name.endswith(("norm_q.weight", "norm_k.weight", "query_norm.weight", "key_norm.weight"))]
    for value in norms or [block.attn1.to_q.weight for block in model.transformer_blocks]:
        value.mul_(4 if norms else 32)  # attention that makes a difference

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


def test_models_whose_attention_cannot_be_sparse_say_why():
    model = SanaVideoTransformer3DModel(in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=12, num_cross_attention_heads=2,
                                        cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=8, sample_size=8)
    with pytest.raises(NotImplementedError, match="SanaVideoTransformer3DModel: its self-attention is linear"):
        aerogel.enable_sparse_attention(model)
    model = Cosmos3OmniTransformer(head_dim=16, hidden_size=32, intermediate_size=48, latent_channel=4, num_attention_heads=2, num_hidden_layers=1,
                                   num_key_value_heads=1, patch_latent_dim=16, vocab_size=64, rope_axes_dim=(4, 2, 2))
    with pytest.raises(NotImplementedError, match="Cosmos3OmniTransformer: its tokens attend to those of the prompt"):
        aerogel.enable_sparse_attention(model)


@torch.no_grad()
def test_sequences_without_a_whole_grid_stay_dense():
    model, inputs, *_ = _minimax_h3()
    inputs["position_ids"][20] = inputs["position_ids"][19]
    plan = aerogel.enable_sparse_attention(model.eval(), **HALF)
    model(**inputs)
    assert plan.report.why == {"the rows of the video are no whole grid in order": 2}


def test_grids_one_behind_the_other():
    rows = torch.cat([_grid_positions(2, 3, 4), _grid_positions(1, 5, 6), _grid_positions(3, 5, 6)])
    assert _grids(rows) == [(0, (2, 3, 4)), (24, (1, 5, 6)), (54, (3, 5, 6))]
    assert _grids(_grid_positions(4, 3, 2) + torch.tensor([7, 1, 5])) == [(0, (4, 3, 2))]
    for broken in (rows[:-1], rows[1:], rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]):
        with pytest.raises(ValueError, match="no whole grid"):
            _grids(broken)


@torch.no_grad()
def test_kandinskys_own_sparse_attention_goes_first(monkeypatch):
    """NABLA chooses blocks of 8 x 8 tokens of a frame, as a BlockMask of torch; Aerogel computes them."""
    model, inputs, *_ = _kandinsky5()
    inputs |= dict(hidden_states=torch.randn(1, 4, 32, 32, 4), visual_rope_pos=[torch.arange(n) for n in (4, 16, 16)])
    model.eval()
    exact = model(**inputs, return_dict=False)
    sta = torch.eye(16, dtype=torch.bool)[None, None]
    nabla = {"to_fractal": True, "sta_mask": sta, "P": 1.0}
    plan = aerogel.enable_sparse_attention(model, **HALF)
    assert relative(model(**inputs, sparse_params=nabla, return_dict=False), exact) < 1e-2  # all blocks; rotary embedding is rounded in bfloat16
    assert plan.report.why == {"the model has chosen the blocks itself (BlockMask)": 2}
    fewer = model(**inputs, sparse_params={**nabla, "P": 0.3}, return_dict=False)
    plan.disable()

    def by_tokens(q, k, v, attn_mask=None, **_):
        seen = None if attn_mask is None else attn_mask.to_dense().bool().repeat_interleave(64, 2).repeat_interleave(64, 3)
        return scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), seen).transpose(1, 2)

    monkeypatch.setattr(transformer_kandinsky, "dispatch_attention_fn", by_tokens)
    assert relative(fewer, model(**inputs, sparse_params={**nabla, "P": 0.3}, return_dict=False)) < 1e-5 < 1e-3 < relative(fewer, exact)


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


