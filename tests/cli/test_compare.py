"""aerogel compare: the figures against an independent computation, every kind of file, and its errors."""

import json
import math
import subprocess

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from video_reference import as_pixels, reference_ssim


@pytest.fixture
def videos(tmp_path):
    random = np.random.default_rng(0)
    a = random.uniform(-1.1, 1.1, (3, 3, 16, 20)).astype(np.float32)
    b = (a + random.normal(0, 0.05, a.shape)).astype(np.float32)
    save_file({"video": a}, tmp_path / "a.safetensors")
    save_file({"video": b}, tmp_path / "b.safetensors")
    return tmp_path, a, b


def compare(aerogel, *paths):
    done = aerogel("compare", *paths, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"]


def test_figures_match_numpy(aerogel, videos):
    folder, a, b = videos
    (row,) = compare(aerogel, folder / "a.safetensors", folder / "b.safetensors")
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert row["cosine"] == pytest.approx((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()), rel=1e-12)
    assert row["relative_l1"] == pytest.approx(np.abs(x - y).sum() / np.abs(x).sum(), rel=1e-12)
    assert row["relative_l2"] == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
    assert row["largest"] == pytest.approx(np.abs(x - y).max(), rel=1e-12)
    pixels_a, pixels_b = as_pixels(a), as_pixels(b)
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / ((pixels_a - pixels_b) ** 2).mean()), rel=1e-12)
    assert row["ssim"] == pytest.approx(reference_ssim(pixels_a, pixels_b), rel=1e-9)


def test_equal_videos(aerogel, videos):
    folder, _, _ = videos
    (row,) = compare(aerogel, folder / "a.safetensors", folder / "a.safetensors")
    assert (row["psnr"], row["ssim"], row["largest"]) == ("inf", 1.0, 0.0)


def test_pictures(aerogel, videos):
    """As one frame: two of them, and one beside what has one frame."""
    folder, a, b = videos
    first, second = (as_pixels(video)[0].astype(np.uint8) for video in (a, b))
    Image.fromarray(first).save(folder / "a.png")
    Image.fromarray(second).save(folder / "B.PNG")
    Image.fromarray(first).save(folder / "a.webp", lossless=True)
    Image.fromarray(np.kron(first, np.ones((8, 8, 1), np.uint8))).save(folder / "large.png")
    Image.fromarray(np.kron(first, np.ones((8, 8, 1), np.uint8))).save(folder / "large.jpg", quality=100, subsampling=0)
    save_file({"video": a[:, :1].copy()}, folder / "one.safetensors")
    (row,) = compare(aerogel, folder / "a.png", folder / "B.PNG")
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / ((first.astype(float) - second) ** 2).mean()), rel=1e-12)
    for other in ("a.webp", "one.safetensors"):
        assert compare(aerogel, folder / "a.png", folder / other)[0]["psnr"] == "inf"
    assert 30 < compare(aerogel, folder / "large.png", folder / "large.jpg")[0]["psnr"] < 60
    done = aerogel("compare", folder / "a.png", folder / "a.safetensors")
    assert done.returncode == 1 and "1 frames of 20x16, and 3 frames of 20x16" in done.stderr


def test_png_folders_and_gif_are_exact(aerogel, videos):
    folder, a, _ = videos
    pixels = as_pixels(a).astype(np.uint8) // 64 * 64  # few colours, so that a GIF palette holds them all
    (folder / "frames").mkdir()
    for index, frame in enumerate(pixels):
        Image.fromarray(frame).save(folder / "frames" / f"{index:03}.png")
    (row,) = compare(aerogel, folder / "frames", folder / "frames")
    assert row["psnr"] == "inf"
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", folder / "frames/%03d.png", "-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none"]
        + [folder / "v.gif"],
        check=True,
    )
    (row,) = compare(aerogel, folder / "frames", folder / "v.gif")
    assert row["ssim"] > 0.9


def test_tensor_files_are_compared_name_by_name(aerogel, tmp_path):
    save_file({"x": np.ones(4, np.float16), "y": np.zeros(3, np.int32)}, tmp_path / "a.safetensors")
    save_file({"x": np.full(4, 1.5, np.float16), "y": np.zeros(3, np.int32)}, tmp_path / "b.safetensors")
    rows = {row["name"]: row for row in compare(aerogel, tmp_path / "a.safetensors", tmp_path / "b.safetensors")}
    assert rows["x"]["relative_l1"] == 0.5
    assert rows["y"]["relative_l2"] == 0.0
    assert rows["y"]["cosine"] == 1.0


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ({"x": np.ones(5, np.float32)}, "differs in shape"),
        ({"z": np.ones(4, np.float32)}, "only"),
        ({"x": np.ones(4, np.float32), "z": np.ones(4, np.float32)}, "only"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(aerogel, tmp_path, b, message):
    save_file({"x": np.ones(4, np.float32)}, tmp_path / "a.safetensors")
    save_file(b, tmp_path / "b.safetensors")
    done = aerogel("compare", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_missing_and_broken_files(aerogel, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for path in ("missing.mp4", "missing.safetensors", "broken.mp4"):
        done = aerogel("compare", tmp_path / path, tmp_path / path)
        assert done.returncode == 1
        assert path in done.stderr or "ffprobe" in done.stderr
