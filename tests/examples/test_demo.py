"""The demo, short: every file it promises is there and says what the command measured."""

import base64
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, ROOT / "examples/demo/run.py", "--aerogel", build / "aerogel", "--output", folder]
    command += ["--steps", "3", "--start-step", "1"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_four_runs_with_their_figures(demo):
    folder, printed = demo
    results = json.loads((folder / "results.json").read_text())
    assert [row["name"] for row in results] == ["float", "W8A8_DYNAMIC", "W8A8_DYNAMIC + rf_v2", "W8A8_DYNAMIC + rf_v1"]
    plain, quantized, rf_v2, rf_v1 = results
    assert plain["psnr"] == "inf" and plain["density"] == 1.0
    assert quantized["weight_bytes"] < 0.7 * plain["weight_bytes"]
    for row in (quantized, rf_v2, rf_v1):
        assert row["psnr"] > 15 and 0.9 < row["cosine"] <= 1
    for row in (rf_v2, rf_v1):
        assert 0.15 < row["density"] < 0.6
        assert row["head_types"]
    for row in results:
        assert row["name"].split(" ")[0] in printed and row["seconds_per_step"] > 0


def test_contact_sheet_and_page(demo):
    folder, _ = demo
    width, height = Image.open(folder / "contact_sheet.png").size
    assert width > 600 and height > 300
    page = (folder / "report.html").read_text()
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert [base64.b64decode(video) for video in videos] == [
        (folder / f"{name}.mp4").read_bytes() for name in ("float", "w8a8", "w8a8_rf_v2", "w8a8_rf_v1")
    ]
    assert "http" not in page  # self-contained


def test_a_missing_model_is_one_clear_line(build, tmp_path):
    command = [sys.executable, ROOT / "examples/demo/run.py", "--aerogel", build / "aerogel", "--model", tmp_path / "none"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr
