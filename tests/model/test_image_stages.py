"""What image-to-video models are told of a picture: resizing as Pillow, CLIP's image encoder as transformers."""
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from test_vae import random_vae
from wan_models import edit_json, error, run_program

BOUND = 1e-5
SMALL = dict(hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=3, image_size=30, patch_size=7,
             layer_norm_eps=1e-4)


def picture(folder, height, width, seed=0, name="picture.png"):
    """Soft shapes and noise, so that filters overshoot here and there."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 127 + 127 * np.sign(np.sin(rows / 3.1 + seed) * np.cos(columns / 4.7))[..., None]
    pixels = np.clip(waves * 0.7 + random.integers(0, 100, (height, width, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


@pytest.mark.parametrize("kind", ["bicubic", "lanczos"])
@pytest.mark.parametrize("size, to", [((37, 53), (224, 320)), ((301, 200), (31, 47)), ((64, 64), (64, 65)), ((9, 40), (12, 11)),
                                      ((5, 5), (1, 1)), ((200, 31), (193, 30)), ((60, 40), (57, 39)), ((60, 40), (58, 39)), ((50, 3), (50, 3)), ((1, 1), (7, 9)), ((123, 457), (64, 64))])
def test_resizing_is_that_of_pillow(tmp_path, kind, size, to):
    path = picture(tmp_path, *size)
    done = run_program("image_stages", "resize", path, *to, kind, tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    wanted = Image.open(path).resize(to[::-1], getattr(Image.Resampling, kind.upper()))
    assert np.array_equal(np.array(Image.open(tmp_path / "out.png")), np.array(wanted))


@pytest.mark.parametrize("ending", ["png", "webp", "jpg"])
def test_pictures_are_read_upright(tmp_path, ending):
    """As ImageOps.exif_transpose, whatever the order of the bytes in EXIF."""
    stored = Image.open(picture(tmp_path, 5, 7))

    def read(name, exif):
        stored.save(tmp_path / name, exif=exif, **{} if ending == "jpg" else dict(lossless=True))
        to = Image.open(tmp_path / name)
        to = ImageOps.exif_transpose(to)
        done = run_program("image_stages", "resize", tmp_path / name, to.height, to.width, "bicubic", tmp_path / "out.png")
        assert done.returncode == 0, done.stderr
        return np.array(Image.open(tmp_path / "out.png")), to
    plain, _ = read(f"plain.{ending}", Image.Exif())
    for orientation in range(1, 9) if ending == "png" else (6, 7):
        exif = Image.Exif()
        exif.endian = "<>"[orientation % 2]
        exif[0x10F], exif[0x112] = "a maker", orientation
        got, theirs = read(f"{orientation}.{ending}", exif)
        turned = Image.fromarray(plain)
        turned.getexif()[0x112] = orientation
        assert np.array_equal(got, np.array(ImageOps.exif_transpose(turned)))
        assert ending == "jpg" or np.array_equal(got, np.array(theirs.convert("RGB")))


def encoder(folder, seed=0, **changes):
    torch.manual_seed(seed)
    model = CLIPVisionModel(CLIPVisionConfig(**{**SMALL, "hidden_act": "gelu", **changes})).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape)
            if value.ndim == 1:
                value.copy_(1 + 0.3 * noise if "norm" in name and name.endswith("weight") else 0.3 * noise)
            else:
                value.copy_(noise / value[0].numel() ** 0.5)
    model.save_pretrained(folder)
    return model


def processor(folder, side, **changes):
    made = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **changes)
    made.save_pretrained(folder)
    return made


def run_clip(folder, path, *more):
    return run_program("image_stages", "clip", path, folder / "preprocessor_config.json", folder, folder / "out.safetensors", *more)


@pytest.mark.parametrize("changes, of_processor, size", [
    ({}, {}, (45, 61)), ({"hidden_act": "quick_gelu"}, {}, (61, 45)), ({"num_hidden_layers": 1}, {"rescale_factor": 1 / 128}, (30, 30)),
    ({"num_attention_heads": 1, "patch_size": 15}, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}, (200, 31)),
    ({"image_size": 33, "patch_size": 11}, {}, (33, 80))])
def test_clip_is_that_of_transformers(tmp_path, changes, of_processor, size):
    model = encoder(tmp_path, **changes)
    prepared = processor(tmp_path, model.config.image_size, **of_processor)
    path, other = picture(tmp_path, *size), picture(tmp_path, *size[::-1], seed=1, name="other.png")
    done = run_clip(tmp_path, path, other)
    assert done.returncode == 0, done.stderr
    ours = load_file(tmp_path / "out.safetensors")
    pixels = prepared(images=[Image.open(path), Image.open(other)], return_tensors="pt").pixel_values
    assert error(ours["pixels"], pixels.double()) <= 1e-6
    with torch.no_grad():
        states = model.double()(pixel_values=pixels.double(), output_hidden_states=True).hidden_states
    assert ours["hidden_states"].shape == states[-2].shape
    assert error(ours["hidden_states"], states[-2]) <= BOUND
    assert error(states[-1], states[-2]) > 100 * BOUND  # another layer would be noticed


def test_files_with_the_old_prefix_and_what_is_not_used(tmp_path):
    model = encoder(tmp_path)
    processor(tmp_path, model.config.image_size)
    path = picture(tmp_path, 40, 50)
    assert run_clip(tmp_path, path).returncode == 0
    new = load_file(tmp_path / "out.safetensors")["hidden_states"]
    weights = {k.removeprefix("vision_model."): v for k, v in load_file(tmp_path / "model.safetensors").items()}
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None], "visual_projection.weight": torch.ones(3, 48)}
    save_file({"vision_model." + k: v for k, v in weights.items()} | positions, tmp_path / "model.safetensors")
    done = run_clip(tmp_path, path)
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(tmp_path / "out.safetensors")["hidden_states"], new)


@pytest.mark.parametrize("file, change, expected", [
    ("config.json", {"hidden_act": "relu"}, 'hidden_act must be one of gelu, quick_gelu, got "relu"'),
    ("config.json", {"num_attention_heads": 5}, "hidden_size must be num_attention_heads times at most 256, got 48 and 5"),
    ("config.json", {"patch_size": 31}, "image_size must be from patch_size to 4096, got 30 and 31"),
    ("config.json", {"num_hidden_layers": 5}, "missing tensors: vision_model.encoder.layers.3"),
    ("config.json", {"num_channels": 4}, "num_channels must be"),
    ("config.json", {"image_size": 37}, "position_embedding.weight must be a float[26,48], got f32[17,48]"),
    ("preprocessor_config.json", {"do_normalize": False}, "do_normalize must be true, got false"),
    ("preprocessor_config.json", {"resample": 2}, "resample must be a whole number from 3 to 3, got 2"),
    ("preprocessor_config.json", {"size": 30}, "size must be an object with shortest_edge, got 30"),
    ("preprocessor_config.json", {"size": {"height": 30}}, "size.shortest_edge must be a whole number"),
    ("preprocessor_config.json", {"crop_size": {"height": 31, "width": 30}}, "crop_size.height must be a whole number from 1 to 30"),
    ("preprocessor_config.json", {"crop_size": {"height": 29, "width": 30}}, "pixels must be f32[*,3,30,30], got f32[1,3,29,30]"),
    ("preprocessor_config.json", {"image_mean": [1, 1]}, "image_mean must be a list of three numbers"),
    ("preprocessor_config.json", {"image_std": [1, 0, 1]}, "image_std[1] must be")])
def test_bad_folders(tmp_path, file, change, expected):
    encoder(tmp_path)
    processor(tmp_path, 30)
    edit_json(tmp_path / file, **change)
    done = run_clip(tmp_path, picture(tmp_path, 40, 40))
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert expected.replace("vision_model.", "") in done.stderr.replace("vision_model.", "")


@pytest.mark.parametrize("frames, last", [(1, False), (9, False), (9, True), (5, True)])
def test_given_frames_are_those_of_diffusers(tmp_path, frames, last):
    vae = random_vae("wan")
    vae.save_pretrained(tmp_path / "vae")
    pipeline = WanImageToVideoPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler())
    pipeline.vae_scale_factor_spatial = 4  # of so few levels
    pictures = [picture(tmp_path, 50, 31), *([picture(tmp_path, 20, 44, seed=2, name="last.png")] if last else [])]
    done = run_program("image_stages", "condition", tmp_path / "vae", frames, 24, 16, tmp_path / "out.safetensors", *pictures)
    assert done.returncode == 0, done.stderr
    pixels = [pipeline.video_processor.preprocess(Image.open(path), height=24, width=16) for path in pictures]
    with torch.no_grad():
        _, exact = pipeline.prepare_latents(pixels[0], 1, 5, 24, 16, frames, torch.float32, torch.device("cpu"),
                                            last_image=pixels[1] if last else None)
    ours = load_file(tmp_path / "out.safetensors")["condition"]
    assert ours.shape == exact.shape and torch.equal(ours[:, :4], exact[:, :4])
    assert error(ours[:, 4:], exact[:, 4:].double()) <= BOUND


def test_frames_that_do_not_fit(tmp_path):
    random_vae("wan").save_pretrained(tmp_path / "vae")
    run = lambda frames, height: run_program("image_stages", "condition", tmp_path / "vae", frames, height, 16,
                                             tmp_path / "out.safetensors", picture(tmp_path, 20, 20)).stderr
    assert "frames 1 more than a multiple of 4, got 8 frames of 16 x 24" in run(8, 24)
    assert "height and width must be multiples of 4" in run(9, 26)
