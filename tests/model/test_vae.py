"""VAEs beside diffusers: small random models of the real classes, encoded and decoded, and folders that are wrong."""
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage, AutoencoderKLWan
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)  # the models are tiny
ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("AEROGEL_BUILD", ROOT / "build/release")) / "tests/vae_run"

BLOCKS = dict(down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3)
IMAGE = dict(**BLOCKS, block_out_channels=[16, 24, 40], layers_per_block=2, latent_channels=6, norm_num_groups=8,
             scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
VIDEO = dict(base_dim=12, z_dim=5, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
             latents_mean=[0.1, -0.7, 0.4, 0.0, 1.5], latents_std=[2.8, 1.4, 0.3, 1.0, 1.7])
RESIDUAL = {**VIDEO, **dict(decoder_base_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True],
                            is_residual=True, in_channels=12, out_channels=12, patch_size=2)}

MODELS = {
    "image": (AutoencoderKL, IMAGE),
    "image with quant_conv": (AutoencoderKL, {**IMAGE, "use_quant_conv": True, "use_post_quant_conv": True,
                                              "mid_block_add_attention": False, "shift_factor": None}),
    "flux2": (AutoencoderKLFlux2, dict(**BLOCKS, block_out_channels=[16, 24, 40], layers_per_block=1,
                                       latent_channels=5, norm_num_groups=4, decoder_block_out_channels=[8, 16, 24])),
    "wan": (AutoencoderKLWan, VIDEO),
    "wan of four levels": (AutoencoderKLWan, {**VIDEO, "dim_mult": [1, 2, 4, 2], "decoder_base_dim": 8,
                                              "temperal_downsample": [False, True, True]}),
    "wan 2.2": (AutoencoderKLWan, RESIDUAL),
    "qwen image": (AutoencoderKLQwenImage, {**VIDEO, "num_res_blocks": 2}),
}


def random_vae(name, seed=0):
    """Weights at which no layer vanishes or saturates, norms and statistics far from 1 and 0."""
    kind, config = MODELS[name]
    vae = kind(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in vae.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "norm" in key and not key.endswith("bias"):
                value.copy_(1 + 0.3 * noise)
            elif value.ndim == 1:
                value.copy_(0.2 * noise)
            else:
                value.copy_(1.2 * noise / value[0].numel() ** 0.5)
        vae.decoder.conv_out.weight *= 0.15  # most pixels in -1 .. 1
        if hasattr(vae, "bn"):
            vae.bn.running_mean.copy_(torch.randn(vae.bn.running_mean.shape, generator=generator))
            vae.bn.running_var.copy_(0.2 + torch.rand(vae.bn.running_var.shape, generator=generator))
    return vae


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each model."""
    made = {}
    for name in MODELS:
        made[name] = tmp_path_factory.mktemp("vae")
        random_vae(name).save_pretrained(made[name])
    return made


def latent_statistics(vae, dtype):
    """factor and shift of the pipelines: what the VAE decodes is the transformer's latents * factor + shift."""
    if isinstance(vae, AutoencoderKL):
        return 1 / vae.config.scaling_factor, vae.config.shift_factor or 0.0
    if isinstance(vae, AutoencoderKLFlux2):
        flat = lambda x: x.view(1, -1, 1, 1).to(dtype)
        return torch.sqrt(flat(vae.bn.running_var) + vae.config.batch_norm_eps), flat(vae.bn.running_mean)
    flat = lambda x: torch.tensor(x, dtype=dtype).view(1, -1, 1, 1, 1)
    return flat(vae.config.latents_std), flat(vae.config.latents_mean)


@torch.no_grad()
def decoded(vae, latents, dtype=torch.float64):
    """As the pipelines of diffusers decode: [1, C, F, h, w] -> [1, 3, F', H, W] in -1 .. 1."""
    vae = vae.to(dtype)
    factor, shift = latent_statistics(vae, dtype)
    x = latents.to(dtype)
    if not isinstance(vae, (AutoencoderKL, AutoencoderKLFlux2)):
        return vae.decode(x * factor + shift).sample
    x = x[:, :, 0] * factor + shift
    if isinstance(vae, AutoencoderKLFlux2):  # Flux2KleinPipeline._unpatchify_latents
        b, c, h, w = x.shape
        x = x.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)
    return vae.decode(x).sample[:, :, None].clamp(-1, 1)


@torch.no_grad()
def encoded(vae, pixels, dtype=torch.float64):
    vae = vae.to(dtype)
    factor, shift = latent_statistics(vae, dtype)
    x = pixels.to(dtype)
    if not isinstance(vae, (AutoencoderKL, AutoencoderKLFlux2)):
        return (vae.encode(x).latent_dist.mode() - shift) / factor
    x = vae.encode(x[:, :, 0]).latent_dist.mode()
    if isinstance(vae, AutoencoderKLFlux2):  # Flux2KleinPipeline._patchify_latents
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)
    return ((x - shift) / factor)[:, :, None]


def run_program(*arguments, **environment):
    return subprocess.run([str(PROGRAM), *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, **environment})


def ours(folder, way, x, work, *options, **environment):
    save_file({"x": x.contiguous()}, work / "in.safetensors")
    done = run_program(folder, way, work / "in.safetensors", work / "out.safetensors", *options, **environment)
    assert done.returncode == 0, done.stderr
    return load_file(work / "out.safetensors")["y"]


def error(got, exact):
    assert got.shape == exact.shape
    return float((got.double() - exact).norm() / exact.norm())


def is_video(name):
    return name.startswith(("wan", "qwen"))


def shape_of(folder):
    done = run_program(folder)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize("name", MODELS)
def test_decodes_and_encodes_as_diffusers(folders, name, tmp_path):
    channels, side, frames, _ = shape_of(folders[name])
    vae = random_vae(name)
    generator = torch.Generator().manual_seed(3)
    for size in [(1, 3, 5), (2, 2, 3), (3, 5, 1)] if is_video(name) else [(1, 3, 5), (1, 7, 2)]:
        latents = torch.randn(1, channels, *size, generator=generator)
        exact = decoded(vae, latents)
        assert 0.05 < exact.abs().mean() < 0.8, "neither vanishes nor saturates"
        assert error(ours(folders[name], "decode", latents, tmp_path), exact) <= 1e-5
        pixels = torch.rand(1, 3, 1 + (size[0] - 1) * frames, size[1] * side, size[2] * side, generator=generator) * 2 - 1
        exact = encoded(vae, pixels)
        assert error(ours(folders[name], "encode", pixels, tmp_path), exact) <= 1e-5


@pytest.mark.parametrize("name", [name for name in MODELS if is_video(name)])
def test_chunks_change_nothing(folders, name, tmp_path):
    channels, side, frames, _ = shape_of(folders[name])
    latents = torch.randn(1, channels, 5, 2, 3, generator=torch.Generator().manual_seed(4))
    pixels = torch.rand(1, 3, 1 + 4 * frames, 2 * side, side) * 2 - 1
    whole = [ours(folders[name], "decode", latents, tmp_path, 0, 5), ours(folders[name], "encode", pixels, tmp_path, 0, 5)]
    for chunk in (1, 2, 3):
        assert error(ours(folders[name], "decode", latents, tmp_path, 0, chunk), whole[0].double()) <= 1e-6
        assert error(ours(folders[name], "encode", pixels, tmp_path, 0, chunk), whole[1].double()) <= 1e-6


@pytest.mark.parametrize("name", ["flux2", "wan", "wan 2.2"])
def test_runs_on_other_devices(folders, name, tmp_path):
    """On memory that the host cannot read: layers call operations and touch no element themselves."""
    channels, side, frames, _ = shape_of(folders[name])
    frames = 2 * frames + 1 if is_video(name) else 1
    for way, x in (("decode", torch.randn(1, channels, 3 if is_video(name) else 1, 2, 3)),
                   ("encode", torch.rand(1, 3, frames, side, 2 * side))):
        here = ours(folders[name], way, x, tmp_path, 0, 2)
        assert error(ours(folders[name], way, x, tmp_path, 0, 2, VAE_RUN_HIDDEN="1"), here.double()) <= 1e-5


def difference_of_columns(folder, way, x, work, tile, **environment):
    """The largest one of each column, between tiles and the whole picture at once."""
    whole, tiled = ours(folder, way, x, work, 10 ** 6), ours(folder, way, x, work, tile, **environment)
    return (whole - tiled).abs().amax(dim=(0, 1, 2, 3)) / whole.abs().max()


@pytest.mark.parametrize("name", ["wan", "wan 2.2", "image", "flux2"])
def test_tiles_blend(folders, name, tmp_path):
    """Tiles differ near their borders alone: norms of pictures have the statistics of all of it."""
    channels, side, time, _ = shape_of(folders[name])
    generator = torch.Generator().manual_seed(5)
    # flux2 doubles the picture before the layers that see tiles.
    lines, columns = 5, 64 if name != "flux2" else 32
    latents = torch.randn(1, channels, 2 if is_video(name) else 1, lines, columns, generator=generator)
    # Pictures get a slope, so that every tile has other statistics.
    latents += torch.linspace(-2, 2, columns)
    pixels = torch.rand(1, 3, 1 + time if is_video(name) else 1, lines * side, columns * side, generator=generator) - 0.5
    pixels += torch.linspace(-0.5, 0.5, columns * side)
    for way, x in (("decode", latents), ("encode", pixels)):
        difference = difference_of_columns(folders[name], way, x, tmp_path, 44 * side * columns // 64)
        scale = len(difference) / 64
        assert 0 < difference.max() < 0.5, "there were tiles"
        # Two tiles: the first ends at 44, the second begins at 20; what they share blends from 26.5 to 37.5.
        far = torch.cat([difference[:int(26 * scale)], difference[int(38 * scale):]])
        assert far.max() <= 1e-3, way


def test_tiles_on_other_devices(folders, tmp_path):
    channels, side, _, _ = shape_of(folders["image"])
    x = torch.randn(1, channels, 1, 5, 24)
    there = ours(folders["image"], "decode", x, tmp_path, 12 * side, VAE_RUN_HIDDEN="1")
    assert error(there, ours(folders["image"], "decode", x, tmp_path, 12 * side).double()) <= 1e-5


def test_stops_and_refuses(folders, tmp_path):
    save_file({"x": torch.randn(1, 5, 1, 4, 4)}, tmp_path / "x")
    done = run_program(folders["wan"], "decode", tmp_path / "x", tmp_path / "y", 0, 0, 0.5)
    assert done.returncode == 1 and "said stop" in done.stderr
    done = run_program(folders["image"], "decode", tmp_path / "x", tmp_path / "y")
    assert done.stderr == "[vae] latents must be f32 [1,6,frames,height,width] on cpu, got f32[1,5,1,4,4] on cpu\n"
    save_file({"x": torch.randn(1, 6, 2, 4, 4)}, tmp_path / "x")
    done = run_program(folders["image"], "decode", tmp_path / "x", tmp_path / "y")
    assert done.stderr == "[vae] latents must have one frame and positive sizes, got 2 of 4 x 4\n"
    save_file({"x": torch.randn(1, 3, 1, 16, 16)}, tmp_path / "x")
    for tile, chunk in ((-1, 0), (0, -2)):
        done = run_program(folders["wan"], "encode", tmp_path / "x", tmp_path / "y", tile, chunk)
        assert done.stderr == f"[vae] tile and chunk must not be negative, got {tile} and {chunk}\n"
    save_file({"x": torch.randn(1, 3, 3, 16, 18)}, tmp_path / "x")
    done = run_program(folders["wan"], "encode", tmp_path / "x", tmp_path / "y")
    assert done.stderr == ("[vae] height and width must be multiples of 4, and frames 1 more than a multiple of 4, "
                           "got 3 frames of 18 x 16\n")


def test_values_must_be_finite(folders, tmp_path):
    x = torch.randn(1, 6, 1, 4, 4)
    save_file({"x": x.index_fill(2, torch.tensor([0]), float("nan"))}, tmp_path / "x")
    done = run_program(folders["image"], "decode", tmp_path / "x", tmp_path / "y")
    assert done.stderr == "[vae] latents must be finite, got NaN or infinity\n"
    vae = random_vae("image")
    with torch.no_grad():
        vae.decoder.conv_in.weight[0, 0, 0, 0] = float("inf")
    vae.save_pretrained(tmp_path / "vae")
    save_file({"x": x}, tmp_path / "x")
    done = run_program(tmp_path / "vae", "decode", tmp_path / "x", tmp_path / "y")
    assert "diffusion_pytorch_model.safetensors: the result is not finite" in done.stderr


WRONG = [
    ("image", dict(_class_name="AutoencoderTiny"), "_class_name must be", '"AutoencoderTiny"'),
    ("image", dict(act_fn="relu"), "act_fn must be", '"relu"'),
    ("image", dict(down_block_types=["AttnDownEncoderBlock2D"] * 3), "down_block_types[0] must be", '"Attn'),
    ("image", dict(up_block_types=["UpDecoderBlock2D"]), "up_block_types must be as many blocks", "["),
    ("image", dict(norm_num_groups=7), "block_out_channels must be sizes that norm_num_groups 7 divides", "[16,24,40]"),
    ("image", dict(in_channels=4), "in_channels must be", "4"),
    ("image", dict(scaling_factor=0), "scaling_factor must be", "0"),
    ("image", dict(latent_channels=7), "missing", ""),
    ("flux2", dict(patch_size=[1, 1]), "patch_size must be [2, 2]", "[1,1]"),
    ("wan", dict(latents_std=[1.0]), "latents_std must be a list of 5 numbers", "[1.0]"),
    ("wan", dict(latents_mean=None), "latents_mean must be a list of 5 numbers", "null"),
    ("wan", dict(temperal_downsample=[True]), "temperal_downsample must be 2 flags", "[true]"),
    ("wan", dict(dim_mult=[]), "dim_mult must be a list of 1 to 8 sizes", "[]"),
    ("wan", dict(attn_scales=[0.5]), "attn_scales must be an empty list", "[0.5]"),
    ("wan", dict(patch_size=2), "in_channels must be", "3"),
    ("wan", dict(num_res_blocks=2), "missing tensors", ""),
    ("wan 2.2", dict(dim_mult=[1, 2, 3, 3]), "dim_mult must be widths that", ""),
]


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_folders(folders, case, tmp_path):
    name, changes, expected, got = case
    config = json.loads((folders[name] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    os.link(folders[name] / "diffusion_pytorch_model.safetensors", tmp_path / "diffusion_pytorch_model.safetensors")
    done = run_program(tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    if expected == "missing":
        assert "of the wrong shape or type" in done.stderr
    else:
        assert expected in done.stderr and f"got {got}" in done.stderr or "missing tensors" in done.stderr, done.stderr
    assert str(tmp_path) in done.stderr


def test_no_config_and_no_weights(folders, tmp_path):
    assert "config.json" in run_program(tmp_path).stderr
    (tmp_path / "config.json").write_text((folders["wan"] / "config.json").read_text())
    assert "diffusion_pytorch_model.safetensors" in run_program(tmp_path).stderr


def test_bf16_weights(folders, tmp_path):
    vae = random_vae("image").to(torch.bfloat16)
    vae.save_pretrained(tmp_path / "vae")
    latents = torch.randn(1, 6, 1, 3, 4)
    assert error(ours(tmp_path / "vae", "decode", latents, tmp_path), decoded(vae, latents)) <= 1e-5
