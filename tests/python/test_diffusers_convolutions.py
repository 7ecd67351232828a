"""aerogel.hasten: the convolutions of VAEs by the core beside PyTorch's, alone and in whole VAEs; what it leaves to PyTorch."""
import copy

import aerogel
import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")
import diffusers  # noqa: E402
import aerogel.diffusers  # noqa: E402
from aerogel.diffusers import convolutions, norms  # noqa: E402
from aerogel.diffusers.convolutions import FusedConv2d, FusedWanConv3d, FusedWanNorm  # noqa: E402
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm  # noqa: E402

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch):
    """How often the core convolves."""
    seen, original = [], convolutions._core_of
    monkeypatch.setattr(convolutions, "_core_of", lambda *given: seen.append(1) or original(*given))
    return seen


def as_class(module, kind):
    faster = copy.deepcopy(module)
    faster.__class__ = kind
    return faster


def near(got, exact, bound):
    assert got.shape == exact.shape
    assert float((got.double() - exact).abs().max()) <= bound * float(exact.abs().max())


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("form", [dict(kernel_size=3, padding=1), dict(kernel_size=3, stride=2), dict(kernel_size=1), dict(kernel_size=(3, 5), padding=(2, 1)),
                                  dict(kernel_size=2, stride=(2, 3), bias=False), dict(kernel_size=3, padding=1, bias=False)], ids=str)
def test_pictures(form, dtype, calls):
    conv = nn.Conv2d(5, 7, **form).to(dtype)
    x = torch.randn(2, 5, 9, 11).to(dtype)
    got = as_class(conv, FusedConv2d)(x)
    assert got.dtype == dtype and calls == [1]
    near(got, copy.deepcopy(conv).double()(x.double()), BOUNDS[dtype])
    near(as_class(conv, FusedConv2d)(x.contiguous(memory_format=torch.channels_last)), copy.deepcopy(conv).double()(x.double()), BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kept", [None, 1, 2])
@pytest.mark.parametrize("form", [dict(kernel_size=3, padding=1), dict(kernel_size=(3, 1, 1), padding=(1, 0, 0)), dict(kernel_size=1),
                                  dict(kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=(0, 0, 0))], ids=str)
def test_videos_that_look_back(form, kept, dtype, calls):
    conv = WanCausalConv3d(4, 6, **form).to(dtype)
    x = torch.randn(2, 4, 5, 6, 7).to(dtype)
    cache = None if kept is None else torch.randn(2, 4, kept, 6, 7).to(dtype)
    exact = copy.deepcopy(conv).double()(x.double(), None if cache is None else cache.double())
    got = as_class(conv, FusedWanConv3d)(x, cache)
    assert got.dtype == dtype and calls == [1, 1]  # an item of the batch each
    near(got, exact, BOUNDS[dtype])


def test_what_is_left_to_torch(calls):
    x = torch.randn(1, 4, 6, 6)
    for form in (dict(groups=2), dict(dilation=2), dict(padding_mode="reflect", padding=1), dict(padding="same")):
        conv = nn.Conv2d(4, 4, 3, **form)
        assert torch.equal(as_class(conv, FusedConv2d)(x), conv(x))
    conv = nn.Conv2d(4, 4, 3)
    faster = as_class(conv, FusedConv2d)
    with torch.enable_grad():
        grown = x.clone().requires_grad_()
        faster(grown).sum().backward()
        assert grown.grad is not None and faster.weight.grad is not None
        faster.weight.grad = None
        faster(x).sum().backward()  # gradients of the weights alone
        assert faster.weight.grad is not None
    assert torch.allclose(torch.compile(faster, backend="eager")(x), conv(x), atol=1e-5)
    assert torch.allclose(torch.jit.trace(faster, x, check_trace=False)(x), conv(x), atol=1e-5)
    assert not calls
    for wrong in (x[:, :3], x[..., :2], x.double()):
        with pytest.raises(RuntimeError):
            faster(wrong)
    long = torch.randn(1, 4, 3, 6, 6)  # more frames than count
    for faster, frozen in ((as_class(conv, FusedConv2d), "weight"), (as_class(WanRMS_norm(4), FusedWanNorm), "")):
        with torch.enable_grad():
            faster.requires_grad_(False)
            trained = [parameter.requires_grad_() for name, parameter in faster.named_parameters() if name != frozen]
            faster(x.to(memory_format=torch.channels_last)).sum().backward()  # of a bias alone, too
            assert len(trained) == 1 and trained[0].grad is not None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(as_class(conv, FusedConv2d)(x), conv(x)) and conv(x).dtype == torch.bfloat16
    for part in ("forward", "_conv_forward"):  # as whoever wants pictures without seams exchanges it
        changed = nn.Sequential(nn.Conv2d(4, 4, 3))
        setattr(changed[0], part, lambda x, *weights: x)
        assert aerogel.hasten(changed) == (["0"] if part == "_conv_forward" else []) and torch.equal(changed(x), x)
    assert not calls
    causal = WanCausalConv3d(4, 4, 3, padding=1)
    assert torch.equal(as_class(causal, FusedWanConv3d)(long, long), causal(long, long))


def test_weights_that_change_are_packed_anew():
    conv = nn.Conv2d(3, 4, 3)
    faster, x = as_class(conv, FusedConv2d), torch.randn(1, 3, 8, 8)
    faster(x)
    conv.weight.mul_(2), faster.weight.mul_(2)
    near(faster(x), conv.double()(x.double()), 1e-5)
    faster.bias = None
    conv.bias = None
    near(faster(x), conv(x.double()), 1e-5)
    near(copy.deepcopy(faster)(x), conv(x.double()), 1e-5)
    faster.stride, faster.padding, conv.stride, conv.padding = (2, 2), (1, 1), (2, 2), (1, 1)
    near(faster(x), conv(x.double()), 1e-5)


def test_no_other_weights_have_the_address_of_those_that_were_packed():
    faster = as_class(nn.Conv2d(1, 1, 1, bias=False), FusedConv2d)
    faster(torch.ones(1, 1, 2, 2))
    storage = faster.weight.untyped_storage()._cdata
    faster.weight = None
    later = [torch.empty(1, 1, 1, 1) for _ in range(1000)]  # each may lie where the weight lay
    assert storage not in [array.untyped_storage()._cdata for array in later]


def test_one_module_of_two_names_and_one_alone():
    conv, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(1, 4, 6, 6)
    both = nn.ModuleDict({"a": conv, "b": conv})
    assert aerogel.hasten(both) == ["a"] and both["b"] is both["a"] is conv and type(conv) is FusedConv2d
    conv(x)
    assert conv in convolutions._packed
    aerogel.diffusers.give_back(conv)
    assert type(conv) is nn.Conv2d and conv not in convolutions._packed
    aerogel.hasten(conv)
    assert type(conv) is FusedConv2d


def test_norms_of_pixels(monkeypatch):
    seen = []
    monkeypatch.setattr(convolutions, "rms_norm", lambda *given: seen.append(1) or norms.rms_norm(*given))
    norm = WanRMS_norm(6, images=False)
    nn.init.normal_(norm.gamma)
    x = torch.randn(2, 6, 3, 4, 5) * 100
    x[0, :, 0, 0, 0] = 0
    x[1, :, 0, 0, 0] = 1e-20
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    got = as_class(norm, FusedWanNorm)(last)
    assert seen == [1] and got.stride() == last.stride()
    near(got[:1], copy.deepcopy(norm).double()(x.double())[:1], 1e-6)
    near(got[1:, :, 1:], copy.deepcopy(norm).double()(x.double())[1:, :, 1:], 1e-6)
    assert got[1, :, 0, 0, 0].isfinite().all()
    assert torch.equal(as_class(norm, FusedWanNorm)(x), norm(x)) and seen == [1]  # channels first
    with torch.enable_grad():
        faster = as_class(norm, FusedWanNorm)
        faster(last).sum().backward()
        assert faster.gamma.grad is not None


IMAGE_VAE = dict(down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=[8, 8, 16, 16],
                 layers_per_block=1, norm_num_groups=4, latent_channels=4)
VIDEO_VAE = dict(base_dim=8, z_dim=4, dim_mult=[1, 1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True])
SMALL_VAE = {**VIDEO_VAE, **dict(decoder_base_dim=8, is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=16)}
VAES = {"image": (diffusers.AutoencoderKL, IMAGE_VAE), "flux2": (diffusers.AutoencoderKLFlux2, IMAGE_VAE),
        "wan": (diffusers.AutoencoderKLWan, VIDEO_VAE), "wan 2.2": (diffusers.AutoencoderKLWan, SMALL_VAE), "qwen": (diffusers.AutoencoderKLQwenImage, VIDEO_VAE)}


@pytest.mark.parametrize("name", VAES)
def test_whole_vaes(name, calls):
    kind, config = VAES[name]
    vae = kind(**config).eval()
    for parameter in vae.parameters():
        nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.1)
    x = torch.randn(1, 3, 64, 48) if "image" in name or name == "flux2" else torch.randn(1, 3, 1 if name == "qwen" else 9, 64, 48)
    latents = vae.encode(x).latent_dist.mode()
    wanted, names, kinds = vae.decode(latents).sample, list(vae.state_dict()), [type(module) for module in vae.modules()]
    exchanged = [name for name in aerogel.hasten(vae) if "Norm" not in type(vae.get_submodule(name)).__name__]
    assert len(exchanged) > 10 and list(vae.state_dict()) == names and not calls
    near(vae.encode(x).latent_dist.mode(), latents.double(), 1e-4)
    near(vae.decode(latents).sample, wanted.double(), 1e-4)
    assert len(calls) >= len(exchanged) - 8
    assert aerogel.hasten(vae) == []
    aerogel.diffusers.give_back(vae)
    assert [type(module) for module in vae.modules()] == kinds
    assert torch.equal(vae.decode(latents).sample, wanted)


def test_wrong_models():
    with pytest.raises(ValueError, match=r"\[hasten\] model must be a torch module \(of a pipeline, give pipe.vae\), got int"):
        aerogel.hasten(3)
    for model in (nn.Linear(2, 2), nn.Sequential(nn.Conv3d(3, 4, 3))):
        with pytest.raises(ValueError, match=rf"\[hasten\] {type(model).__name__} has none of: .*Conv2d.*GELU.*, Conv3d whose stride is its kernel"):
            aerogel.hasten(model)


OTHERS = {
    "KVAE": lambda: diffusers.AutoencoderKLKVAE(channels=32, num_enc_blocks=1, num_dec_blocks=1, z_channels=4, ch_mult=(1, 1, 2)),
    "ConsistencyDecoder": lambda: diffusers.ConsistencyDecoderVAE(
        encoder_block_out_channels=(32, 32), encoder_down_block_types=("DownEncoderBlock2D",) * 2, decoder_block_out_channels=(32, 64),
        decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2, decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2,
        decoder_layers_per_block=1, encoder_layers_per_block=1)}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_vaes_of_pictures_by_other_names(make):
    vae = make().eval()
    faster = copy.deepcopy(vae)
    convolutions_of = [name for name, module in vae.named_modules() if type(module) is nn.Conv2d]
    assert aerogel.hasten(faster) == convolutions_of
    latents, picture = torch.randn(1, 4, 6, 8), torch.randn(1, 3, 16, 16)
    wanted, got = ([one.decode(latents, **given).sample, one.encode(picture).latent_dist.mean] for one in (vae, faster)
                   for given in [{"generator": torch.Generator().manual_seed(1)} if "ConsistencyDecoder" in type(vae).__name__ else {}])
    for a, b in zip(wanted, got):
        near(b, a.double(), 1e-4)
