"""What works with every model of diffusers, whatever it calls its timestep: dense attention by Aerogel, UNets, fused projections, wrappers."""
import logging

import aerogel
import pytest
import torch
from aerogel.diffusers.models import ANY_MODEL, VIDEO_MODELS, timestep_name
from diffusers import ConfigMixin, HiDreamImageTransformer2DModel, ModelMixin, SkyReelsV2Transformer3DModel, UNet2DConditionModel, ZImageTransformer2DModel
from test_layer_choice import HIDREAM
from tiny_pipelines import build, latents, relative, wan_transformer
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def z_image():
    """Its forward has `t`."""
    model = ZImageTransformer2DModel(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
                                     cap_feat_dim=16, axes_dims=[8, 12, 12], axes_lens=[64, 64, 64])
    return model, lambda: model([seeded(4, 1, 8, 8)], torch.tensor([0.5]), [seeded(7, 16)], return_dict=False)[0][0]


def hidream():
    """Its forward has `timesteps`."""
    model = HiDreamImageTransformer2DModel(**HIDREAM)
    inputs = dict(hidden_states=seeded(1, 4, 32, 32), timesteps=torch.tensor([500.0]), encoder_hidden_states_t5=seeded(1, 8, 32),
                  encoder_hidden_states_llama3=seeded(2, 1, 8, 16), pooled_embeds=seeded(1, 64))
    return model, lambda: model(**inputs, return_dict=False)[0]


def unet():
    model = UNet2DConditionModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
                                 down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    return model, lambda: model(seeded(1, 4, 16, 16), 7, seeded(1, 5, 32), return_dict=False)[0]


class _Unet:
    """A pipeline as enable_sparse_attention sees it."""

    def __init__(self, model):
        self.unet = model


@pytest.mark.parametrize("make", [z_image, hidream, unet])
@torch.no_grad()
def test_dense_attention_whatever_the_timestep_is_called(make):
    torch.manual_seed(0)
    model, run = make()
    model.eval()
    exact = run()
    for target in (model, _Unet(model)) if make is unet else (model,):
        plan = aerogel.enable_sparse_attention(target, sparse_type=None)
        assert relative(run(), exact) < 1e-5
        plan.disable()
        assert set(plan.report.why) == {"sparse_type is None"} and plan.report.why["sparse_type is None"] >= 4
    assert relative(run(), exact) == 0
    report = aerogel.quantize(model, scheme="W8A8_DYNAMIC")
    assert len(report.quantized) > 10 and 0 < relative(run(), exact) < 0.1


class Untimed(nn.Module):
    """As Cosmos3: the forward has no timestep of its own."""

    def __init__(self):
        super().__init__()
        self.inner = wan_transformer().eval()

    def forward(self, hidden_states):
        return self.inner(hidden_states, torch.tensor([500.0]), torch.ones(1, 5, 24), return_dict=False)[0]


@torch.no_grad()
def test_a_model_without_a_timestep(monkeypatch):
    torch.manual_seed(0)
    model, x = Untimed(), seeded(1, 4, 3, 8, 8)
    exact = model(x)
    plan = aerogel.enable_sparse_attention(model, sparse_type=None, start_step=2)
    assert relative(model(x), exact) < 1e-5 and plan.report.why == {"sparse_type is None": 4}
    plan.disable()
    monkeypatch.setitem(VIDEO_MODELS, "Untimed", ANY_MODEL)
    aerogel.enable_sparse_attention(model).disable()
    for counted in (dict(start_step=1), dict(end_step=3), dict(mask_refresh_steps=2)):
        with pytest.raises(ValueError, match="Untimed.forward has no argument timestep, timesteps, t, .*cannot be counted"):
            aerogel.enable_sparse_attention(model, **counted)
        aerogel.enable_sparse_attention(model).disable()  # nothing was left behind


def test_the_first_name_that_the_forward_has():
    assert [timestep_name(names) for names in (["x", "t"], ["t", "timestep"], ["timesteps"], ["vision_timesteps"])] == ["t", "timestep", "timesteps", None]


@torch.no_grad()
def test_what_dense_format_cannot_compute_is_told():
    """SkyReels masks by blocks of frames."""
    model = SkyReelsV2Transformer3DModel(patch_size=(1, 2, 2), in_channels=4, out_channels=4, text_dim=24, freq_dim=32, ffn_dim=96, num_layers=1,
                                         num_attention_heads=2, attention_head_dim=32, rope_max_seq_len=32, num_frame_per_block=2)
    plan = aerogel.enable_sparse_attention(model.eval(), sparse_type=None, dense_format="int8")
    model(seeded(1, 4, 4, 8, 8), torch.tensor([9.0]), seeded(1, 9, 24))
    assert plan.report.why == {"sparse_type is None": 2} and plan.report.in_float == {"an attention mask is given": 1}
    assert "1 of these in float, not in dense_format: an attention mask is given" in str(plan.report)


def test_padding_of_text_is_no_reason_for_float():
    """HunyuanVideo and Qwen-Image mask it. In HunyuanVideo's refiner of the text, padding sees the first token only: that mask is more."""
    for name in ("hunyuan", "qwen"):
        pipe, arguments = build(name)
        if name == "qwen":
            arguments["prompt_embeds_mask"][:, 6:] = 0
        exact = latents(pipe, arguments)
        pipe.transformer.set_attention_backend("aerogel")
        assert relative(latents(pipe, arguments), exact) < 1e-5
        pipe.transformer.set_attention_backend("native")
        plan = aerogel.enable_sparse_attention(pipe, sparse_type=None, dense_format="int8")
        assert 1e-6 < relative(latents(pipe, arguments), exact) < 0.05
        assert plan.report.in_float == ({"an attention mask is given": 2} if name == "hunyuan" else {}) and plan.report.why["sparse_type is None"] >= 4


class InItsOwnWay:
    def __call__(self, attn, hidden_states, *_, **__):
        return hidden_states


class Unprocessed(ModelMixin, ConfigMixin):
    pass


def mixed_unet():
    model, run = unet()
    for index, layer in enumerate(m for m in model.modules() if hasattr(m, "processor")):
        layer.processor = InItsOwnWay() if index == 0 else layer.processor
    return model, run


@pytest.mark.parametrize("make, said, advised", [
    (unet, "reaches no attention of UNet2DConditionModel: AttnProcessor2_0 call PyTorch themselves", True), (z_image, "", False),
    (lambda: (wan_transformer(), None), "", False), (hidream, "reaches no attention of HiDreamImageTransformer2DModel", True),
    (lambda: (Unprocessed(), None), "reaches no attention of Unprocessed: Unprocessed attend in their own way, which no backend and no plan", False),
    (mixed_unet, "sparse_type=None) reaches; InItsOwnWay attend in their own way, which no backend and no plan reaches", True)])
def test_a_backend_without_reach_says_so(make, said, advised, caplog):
    model, _ = make()
    with caplog.at_level(logging.WARNING, "aerogel"):
        model.set_attention_backend("aerogel")
        model.set_attention_backend("native")
    ours = [record.getMessage() for record in caplog.records if record.name == "aerogel"]
    assert len(ours) == bool(said) and all(said in text and ("enable_sparse_attention(model, sparse_type=None)" in text) == advised for text in ours)


def test_projections_are_fused_before_and_not_after():
    """After, diffusers would take the stored integers for weights."""
    torch.manual_seed(0)
    model, run = unet()
    model.eval()
    with torch.no_grad():
        exact = run()
        model.fuse_qkv_projections()
        report = aerogel.quantize(model, scheme="W8A16")
        assert any(name.endswith("to_qkv") for name in report.quantized) and relative(run(), exact) < 0.05
        with pytest.raises(NotImplementedError, match="call fuse_qkv_projections before the model is quantized"):
            model.fuse_qkv_projections()
        model.dequantize()
        model.unfuse_qkv_projections()
        model.fuse_qkv_projections()
        assert relative(run(), exact) < 0.05


def test_layers_with_offloading_hooks_stay_float_and_say_so():
    accelerate = pytest.importorskip("accelerate")
    model = wan_transformer().eval()
    accelerate.cpu_offload(model.blocks[0].attn1, execution_device=torch.device("cpu"))
    report = aerogel.quantize(model, scheme="W8A16")
    whys = {layer.name: layer.why for layer in report.layers if layer.name.startswith("blocks.0.attn1")}
    assert len(whys) == 4 and all("take them off first" in why for why in whys.values()) and len(report.quantized) == 16
    accelerate.hooks.remove_hook_from_submodules(model)
    assert len(aerogel.quantize(model, scheme="W8A16").quantized) == 20


def test_a_compiled_transformer_in_a_pipeline():
    pipe, arguments = build("wan")
    exact = latents(pipe, arguments)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    plan = aerogel.enable_sparse_attention(pipe, sparse_type=None)
    assert relative(latents(pipe, arguments), exact) < 1e-4 and plan.report.why["sparse_type is None"] >= 4
    report = aerogel.quantize(pipe.transformer, scheme="W8A8_DYNAMIC")
    assert len(report.quantized) == 20 and 1e-4 < relative(latents(pipe, arguments), exact) < 0.1
