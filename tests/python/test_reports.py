"""inspect and compare as calls: the command's own answers, and figures against NumPy where arrays come from memory."""
import json
import math
import os
import subprocess
import sys

import aerogel
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from video_reference import as_pixels, reference_ssim


def command_json(command, *arguments):
    return json.loads(command(*arguments, "--json").stdout)


@pytest.fixture
def pair(tmp_path, aerogel_command):
    save_file({"blocks.0.ffn.a.weight": np.linspace(-1, 1, 96, dtype=np.float32).reshape(6, 16), "norm.weight": np.ones(16, np.float32)},
              tmp_path / "m.safetensors")
    aerogel_command("quantize", tmp_path / "m.safetensors", "-o", tmp_path / "q", "--scheme", "W8A16")
    return tmp_path


def test_inspect_gives_what_the_command_prints(pair, aerogel_command):
    for path in (pair / "q", str(pair / "m.safetensors"), pair / "q/quant_model_description_w8a16.json"):
        report = aerogel.inspect(path)
        assert report == command_json(aerogel_command, "inspect", path)
        assert f"{report}\n" == aerogel_command("inspect", path, "--all").stdout
    report = aerogel.inspect(pair / "q")
    assert report["kind"] == "quantized" and report["layers"][0]["shape"] == [6, 16] and report.problems == []


def test_problems_are_reported_and_not_raised(pair):
    description = pair / "q/quant_model_description_w8a16.json"
    description.write_text(description.read_text().replace("{", '{"ghost.weight": "W8A16",', 1))
    report = aerogel.inspect(description)
    assert len(report.problems) > 0 and "ghost.weight" in str(report.problems)
    with pytest.raises(OSError, match="nowhere"):
        aerogel.inspect(pair / "nowhere")
    (pair / "bad.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match="bad.safetensors"):
        aerogel.inspect(pair / "bad.safetensors")


def videos(shape=(3, 2, 13, 17)):
    random = np.random.default_rng(0)
    a = random.uniform(-1.1, 1.1, shape).astype(np.float32)
    return a, (a + random.normal(0, 0.05, shape)).astype(np.float32)


def check(row, a, b):
    """The distances of float arrays by NumPy's own arithmetic."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    assert row.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), rel=1e-12)
    assert row.relative_l1 == pytest.approx(np.abs(x - y).sum() / np.abs(x).sum(), rel=1e-12)
    assert row.relative_l2 == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(x), rel=1e-12)
    assert row.largest == np.abs(x - y).max()


def check_video(row, a, b):
    assert row.psnr == pytest.approx(10 * math.log10(255**2 / ((a - b) ** 2).mean()), rel=1e-12)
    assert row.ssim == pytest.approx(reference_ssim(a, b), rel=1e-9)


def test_videos_in_memory():
    a, b = videos()
    for row in (aerogel.compare(a, b), aerogel.compare(torch.from_numpy(a), torch.from_numpy(b)), aerogel.compare(torch.from_numpy(a), b)):
        check(row, a, b)
        check_video(row, as_pixels(a), as_pixels(b))
        assert "PSNR" in str(row)
    frames = [as_pixels(v).astype(np.uint8) for v in (a, b)]
    row = aerogel.compare(*frames)
    check_video(row, *(f.astype(np.float64) for f in frames))
    check(row, *(f.astype(np.float32) / np.float32(255) for f in frames))
    equal = aerogel.compare(a, a)
    assert (equal.psnr, equal.ssim, equal.relative_l2) == (math.inf, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(7,), (), (3, 5), (2, 3, 4, 5)])
def test_arrays_of_other_shapes_are_no_videos(shape):
    a, b = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    a, b = np.asarray(a), np.asarray(b)
    row = aerogel.compare(a, b)
    check(row, a, b)
    assert row.psnr is row.ssim is None and "PSNR" not in str(row)


def test_types_and_strides():
    a, b = np.random.default_rng(1).normal(size=(2, 6, 10))
    check(aerogel.compare(a[:, ::3], b[:, ::3]), a[:, ::3].astype(np.float32), b[:, ::3].astype(np.float32))
    half = [torch.from_numpy(x).bfloat16() for x in (a, b)]
    check(aerogel.compare(*half), *(x.float().numpy() for x in half))
    check(aerogel.compare(half[0].T, half[1].T), *(x.float().numpy() for x in half))
    check(aerogel.compare(np.arange(5) + 1, np.arange(5)), np.arange(5) + 1.0, np.arange(5) + 0.0)


def test_files_and_state_dicts(tmp_path, aerogel_command):
    a, b = videos()
    sides = {"a": {"video": a, "other": np.ones(4, np.float16)}, "b": {"video": b, "other": np.full(4, 1.5, np.float16)}}
    for name, tensors in sides.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    rows = aerogel.compare(*paths)
    printed = {row.pop("name"): row for row in command_json(aerogel_command, "compare", *paths)["results"]}
    assert rows.keys() == printed.keys() == {"video", "other"}
    for name, row in printed.items():
        assert {key: getattr(rows[name], key) for key in row} == row
    assert aerogel.compare(sides["a"], sides["b"])["other"].relative_l1 == 0.5
    assert aerogel.compare(sides["a"], sides["b"]) == rows


def test_encoded_videos_give_one_row(tmp_path, aerogel_command):
    pixels = as_pixels(videos()[0]).astype(np.uint8)
    from PIL import Image

    (tmp_path / "frames").mkdir()
    for index, frame in enumerate(pixels):
        Image.fromarray(frame).save(tmp_path / f"frames/{index}.png")
    save_file({"video": videos()[1]}, tmp_path / "b.safetensors")
    row = aerogel.compare(tmp_path / "frames", tmp_path / "b.safetensors")
    (printed,) = command_json(aerogel_command, "compare", tmp_path / "frames", tmp_path / "b.safetensors")["results"]
    assert {key: getattr(row, key) for key in printed} == printed
    assert row.psnr == aerogel.compare(pixels, as_pixels(videos()[1]).astype(np.uint8)).psnr


def test_what_cannot_be_compared_is_refused(tmp_path):
    ones = np.ones(4, np.float32)
    for a, b, error, message in [
        (ones, np.ones(5, np.float32), ValueError, "differs in shape"),
        (ones, "file.mp4", ValueError, "of one kind"),
        ({"x": ones}, {"y": ones}, ValueError, "'x' is on one side only"),
        (ones * 1j, ones * 1j, ValueError, "real numbers"),
        (torch.ones(2, device="meta"), torch.ones(2), ValueError, "meta device"),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 4, 4, 3), np.uint8), ValueError, "differ in size"),
        (tmp_path / "none.mp4", tmp_path / "none.mp4", OSError, "none.mp4"),
    ]:
        with pytest.raises(error, match=message):
            aerogel.compare(a, b)


def test_neither_needs_torch(pair):
    code = f"""import sys, aerogel, numpy as np
x = np.ones((2, 2), np.float32)
print(aerogel.compare(x, x).cosine, aerogel.inspect({str(pair / 'q')!r})["model_quant_type"], 'torch' in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.stdout == "1.0 W8A16 False\n", done.stderr
