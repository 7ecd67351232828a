"""The fused processors of Z-Image and FLUX.2 beside diffusers' own: same results, and left alone where somebody watches."""
import copy

import aerogel
import pytest
import torch

pytest.importorskip("diffusers.models.transformers.transformer_flux2")
from aerogel.diffusers import image_processors, processors  # noqa: E402
from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel  # noqa: E402

GRID, TEXT = (5, 7), 9


def z_image(images=1):
    model = ZImageTransformer2DModel(dim=96, n_heads=3, n_kv_heads=3, n_layers=1, n_refiner_layers=1, cap_feat_dim=24, axes_dims=[8, 12, 12], axes_lens=[64, 16, 16])
    height, width = (2 * n for n in GRID)
    return model, {"x": [torch.randn(16, 1, height, width) for _ in range(images)], "t": torch.full((images,), 0.5),
                   "cap_feats": [torch.randn(TEXT + i, 24) for i in range(images)]}


def flux2():
    model = Flux2Transformer2DModel(in_channels=8, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=3, joint_attention_dim=24,
                                    axes_dims_rope=(8, 8, 8, 8), guidance_embeds=False)
    places = torch.cartesian_prod(*(torch.arange(n) for n in (1, *GRID, 1)))
    text = torch.cartesian_prod(*(torch.arange(n) for n in (1, 1, 1, TEXT)))
    return model, {"hidden_states": torch.randn(1, len(places), 8), "encoder_hidden_states": torch.randn(1, TEXT, 24), "timestep": torch.tensor([0.5]),
                   "img_ids": places, "txt_ids": text}


MODELS = {"z_image": z_image, "flux2": flux2}


def made(name, **how):
    torch.manual_seed(3)
    model, inputs = MODELS[name](**how)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.2)
    return model.eval(), inputs


def output(model, inputs):
    def cast(value):
        return [cast(v) for v in value] if isinstance(value, list) else value.to(model.dtype)

    plain = ("t", "timestep", "img_ids", "txt_ids")
    result = model(**{k: v if k in plain else cast(v) for k, v in inputs.items()}, return_dict=False)[0]
    return torch.cat([image.flatten() for image in result]).float()


def relative(got, wanted):
    return float((got - wanted).detach().norm() / wanted.detach().norm())


@pytest.fixture
def rotations(monkeypatch):
    """The shapes that rotated_norm() gets."""
    seen, original = [], image_processors._rotated
    monkeypatch.setattr(image_processors, "_rotated", lambda x, *rest: seen.append(tuple(x.shape)) or original(x, *rest))
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_norms_and_rotary_embedding_are_one_pass(name, dtype, rotations):
    model, inputs = made(name)
    with torch.no_grad():
        exact = output(model, inputs)
        theirs = copy.deepcopy(model).to(dtype)
        wanted, fused = output(theirs, inputs), copy.deepcopy(theirs)
        plan = aerogel.enable_sparse_attention(fused, sparse_type=None)
        got = output(fused, inputs)
        assert len(rotations) == 2 * len(plan.report.layers) + (2 if name == "flux2" else 0)  # q and k, and those of the text in double blocks
        assert relative(got, exact) < (1e-5 if dtype == torch.float32 else 1.2 * relative(wanted, exact))
        plan.disable()
        assert torch.equal(output(fused, inputs), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_hooks_keep_their_way(name, rotations):
    model, inputs = made(name)
    exact, calls = output(model, inputs), []
    aerogel.enable_sparse_attention(model, sparse_type=None)
    assert relative(output(model, inputs), exact) < 1e-5 and not rotations  # gradients may be wanted
    for module in model.modules():
        if getattr(module, "norm_q", None) is not None:
            module.norm_q.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert relative(output(model, inputs), exact) < 1e-5
    assert calls and not rotations


def test_images_with_other_places_of_their_tokens_are_left_to_diffusers(rotations):
    model, inputs = made("z_image", images=2)
    with torch.no_grad():
        exact = output(model, inputs)
        aerogel.enable_sparse_attention(model, sparse_type=None)
        assert relative(output(model, inputs), exact) < 1e-5
    assert not rotations


def test_rows_are_of_the_very_class():
    for theirs, ours in processors.FUSED.items():
        assert issubclass(ours, theirs) and type(processors.fused(theirs())) is ours and processors.fused(ours()) is None
