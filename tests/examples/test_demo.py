"""The demo, short: every file it promises is there and says what the command measured."""

import ast
import base64
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples/demo"
SMALL = ["--steps", "3", "--start-step", "1", "--grid", "8", "8", "8", "--heads", "2", "--ffn", "512", "--speed-block-size", "16", "--turns", "2"]


def command_of(build, folder, *flags):
    return [str(part) for part in (sys.executable, DEMO / "run.py", "--aerogel", build / "aerogel", "--output", folder, *flags)]


def run(command):
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def demo(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = run(command_of(build, folder, *SMALL))
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_three_videos_with_their_figures(demo):
    folder, printed = demo
    runs = json.loads((folder / "results.json").read_text())["quality"]["runs"]
    assert [row["name"] for row in runs] == ["float", "W8A8_DYNAMIC", "W8A8_DYNAMIC + rf_v2"]
    plain, quantized, sparse = runs
    assert plain["psnr"] == "inf" and plain["density"] == 1.0
    assert quantized["weight_bytes"] < 0.7 * plain["weight_bytes"]
    for row in (quantized, sparse):
        assert row["psnr"] > 15 and 0.9 < row["cosine"] <= 1
    assert 0.15 < sparse["density"] < 0.6
    for row in runs:
        assert row["name"].split(" ")[0] in printed and row["seconds_per_step"] > 0


def test_the_block_runs_four_ways_in_turns(demo):
    folder, printed = demo
    speed = json.loads((folder / "results.json").read_text())["speed"]
    names = [row["name"] for row in speed["runs"]]
    whole = "W8A8_DYNAMIC + int8 attention"
    assert names == ["float", "W8A8_DYNAMIC", whole, whole + " + rf_v2"] and all(name in printed for name in names)
    plain, quantized, attention, sparse = speed["runs"]
    assert plain["speed"] == 1.0 and plain["relative_l2"] == 0.0
    for row in (quantized, attention, sparse):
        assert len(row["all_seconds"]) == speed["turns"] == 2
        ratios = [a / b for a, b in zip(plain["all_seconds"], row["all_seconds"])]
        assert row["speed"] == pytest.approx(sum(ratios) / 2) and 1e-4 < row["relative_l2"] < 0.1
    assert quantized["relative_l2"] != attention["relative_l2"] < sparse["relative_l2"]
    assert quantized["density"] == 1.0 and 0.2 < sparse["density"] < 0.6
    assert speed["sizes"]["tokens"] == 512 and speed["sizes"]["dim"] == 256


def test_pictures_and_page(demo):
    folder, _ = demo
    for name in ("pictures.png", "speed.png"):
        width, height = Image.open(folder / name).size
        assert width > 600 and height > 250
    page = (folder / "report.html").read_text()
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    assert [base64.b64decode(video) for video in videos] == [(folder / f"{name}.mp4").read_bytes() for name in ("float", "w8a8", "w8a8_rf_v2")]
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(picture) for picture in pictures] == [(folder / f"{name}.png").read_bytes() for name in ("pictures", "speed")]
    assert "http" not in page  # self-contained


def test_tables_for_the_readme_come_from_the_last_run(demo, build, tmp_path):
    folder, _ = demo
    done = run(command_of(build, folder, "--readme"))
    assert done.returncode == 0 and done.stderr == ""
    runs = json.loads((folder / "results.json").read_text())
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| float", "| W8A8"))]
    assert len(rows) == 7 and f"{runs['speed']['runs'][1]['speed']:.2f} x" in rows[4]
    nothing = run(command_of(build, tmp_path, "--readme"))
    assert nothing.returncode == 1 and "results.json is missing" in nothing.stderr


def test_a_second_run_keeps_the_weights_and_a_broken_file_is_made_anew(demo, build):
    folder, _ = demo
    weights = folder / "wan_block/diffusion_pytorch_model.safetensors"
    made = weights.stat().st_ino
    again = run(command_of(build, folder, *SMALL))
    assert again.returncode == 0 and weights.stat().st_ino == made and "weights from the last run" in again.stdout
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    mended = run(command_of(build, folder, *SMALL))
    assert mended.returncode == 0, mended.stderr
    assert weights.read_bytes() == whole  # seeded: the same numbers


# Runs the demo and sends it a signal when the named event of Python touches the folder of unfinished weights.
STOPPED_AT = """
import os, runpy, sys
sent = False
number, event, script = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def stop(name, values):
    global sent
    if name == event and not sent and "wan_block.partial" in str(values[0]):
        sent = True
        os.kill(os.getpid(), number)
sys.addaudithook(stop)
sys.argv = sys.argv[3:]
sys.path.insert(0, os.path.dirname(script))
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_stopping_while_weights_are_written_leaves_nothing_of_them(build, tmp_path, number, event):
    python, *script = command_of(build, tmp_path, *SMALL, "--steps", "1")
    done = run([python, "-c", STOPPED_AT, str(int(number)), event, *script])
    assert done.returncode == 130 and done.stderr == "demo: stopped\n"
    assert not list(tmp_path.glob("wan_block*")) and not (tmp_path / "report.html").exists()


def test_a_missing_model_is_one_clear_line(build, tmp_path):
    done = run(command_of(build, tmp_path, "--model", tmp_path / "none"))
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr


def pins(path):
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return {line.partition("==")[0]: line for line in lines if line}


def test_it_needs_only_its_own_requirements(demo):
    """The demo's environment is small: what its files import is pinned beside them, as in the whole project."""
    wanted, everything = pins(DEMO / "requirements.txt"), pins(ROOT / "requirements.txt")
    assert all(everything[name] == line for name, line in wanted.items())
    imported = set()
    for path in DEMO.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    own = {path.stem for path in DEMO.glob("*.py")}
    assert imported - own - sys.stdlib_module_names <= wanted.keys() - {"pillow"}
