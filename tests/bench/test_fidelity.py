"""bench/fidelity.py on a tiny model: all variants run, and the figures behave."""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import fidelity
import figures
import held_out
import model as demo
import pytest
import train

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_held_out_loss_is_that_of_the_training_loop(short_demo):
    ours = demo.load_folder(short_demo)
    trainer = train.Trainer({"seed": 1, "device": "cpu", "matrix_lr": 0, "other_lr": 0, "weight_decay": 0, "compile": False}, dict(ours.transformer.config))
    trainer.start_from(short_demo)
    trainer.model.autocast = False
    found = held_out.HeldOut(ours, 2).of_model(ours)
    assert found["velocity_error"] == 0 and abs(found["loss"] / trainer.held_out(videos=2) - 1) < 1e-5


def test_every_variant(build, short_demo, tmp_path):
    command = [sys.executable, ROOT / "bench/fidelity.py", "--aerogel", build / "aerogel", "--model", short_demo, "--output", tmp_path,
               "--steps", 2, "--frames", 2, "--cache-steps", 3, "--held-out", 2, "--held-out-frames", 3, "--captions", "red circle moves left", "blue star turns", "--json", tmp_path / "rows.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "rows.json").read_text())
    rows = measured["variants"]
    listed = json.loads(subprocess.run([build / "aerogel", "quantize", "--list", "--json"], capture_output=True, text=True, check=True).stdout)
    assert {r["scheme"] for r in listed["schemes"]} <= {name.partition(",")[0] for name in rows}
    assert rows["W8A16"]["velocity_error"] < 0.02 < rows["W4A4_DYNAMIC"]["velocity_error"] and rows["float"]["velocity_error"] == 0
    assert rows["float, weights moved by 1 ulp"]["velocity_error"] < 1e-5 > abs(rows["PyTorch float32"]["loss"] / rows["float"]["loss"] - 1)
    assert rows["PyTorch float32"]["bytes"] == rows["float"]["bytes"]
    assert rows["torchao int8 weight-only"]["bytes"] == pytest.approx(rows["W8A16"]["bytes"], rel=0.05)
    weights = {name: statistics.fmean(row["weight_errors"]) for name, row in rows.items() if "weight_errors" in row}
    assert weights["torchao int8 dynamic"] < 0.02 < weights["torchao int4 weight-only, groups of 32"]
    # At equal bits and groups ours are no worse, by an algorithm that needs no data.
    assert max(weights["W8A16, mse_clip"], weights["W8A16, ssz"]) < weights["torchao int8 weight-only"]
    assert weights["W4A16, groups of 32, mse_clip"] < weights["torchao int4 weight-only, groups of 32"]
    eight, four, ulp = (statistics.fmean(rows[n]["psnr"]) for n in ("W8A16", "W4A16", "float, weights moved by 1 ulp"))
    assert four < eight < ulp
    assert rows["W4A16"]["bytes"] < rows["W8A16"]["bytes"] < rows["float"]["bytes"]
    assert weights["W4A4_DYNAMIC, rotated, low rank 32"] < weights["W4A4_DYNAMIC"]
    by_step = {name: row.get("velocity_error") for name, row in measured["by_step"].items()}
    assert by_step["float"] == 0 and all(error > 0 for name, error in by_step.items() if name != "float")
    assert by_step["W8A8_TIMESTEP, first half dynamic"] < by_step["W8A8_TIMESTEP"]
    caches = measured["caches"]
    assert list(caches) == ["none", *fidelity.CACHES] and all(0 <= share < 1 for row in list(caches.values())[1:] for share in row["left_out"])
    page = (tmp_path / "fidelity.md").read_text()
    assert re.search(r"the machine \(here .+, \w+\)", page)
    beside = page.split("## One algorithm at a time")[1].split("##")[0]
    assert all(re.search(rf"\| {re.escape(name)} (\| [\d.± ]+){{9}}\|\n", beside) for name in fidelity.SIDE_BY_SIDE)
    assert page.count(" ± ") > 5 * len(rows) and all(len(row["psnr"]) == 2 == len(row["losses"]) for name, row in rows.items() if "psnr" in row)
    assert all(f"| {name} |" in page for name in rows) and (tmp_path / "fidelity.png").stat().st_size > 1000


def test_what_is_kept_is_of_the_same_flags(tmp_path):
    assert len({tuple(flags) for flags in fidelity.VARIANTS.values()}) == len(fidelity.VARIANTS)
    settings = {key: 1 for key in ("model", "captions", "steps", "frames", "guidance", "held_out", "held_out_frames", "cache_steps")}
    arguments = argparse.Namespace(json=tmp_path / "rows.json", aerogel=tmp_path / "aerogel", **settings)
    arguments.aerogel.write_bytes(b"1")
    assert fidelity.Kept(arguments).row("variants", "a", lambda: {"psnr": 1}, ["W8A16"])["psnr"] == 1
    assert fidelity.Kept(arguments).row("variants", "a", lambda: {"psnr": 2}, ["W8A16"])["psnr"] == 1
    assert fidelity.Kept(arguments).row("variants", "a", lambda: {"psnr": 3}, ["W8A16", "--rotate", -1])["psnr"] == 3
    arguments.aerogel.write_bytes(b"2")  # another build
    assert fidelity.Kept(arguments).row("variants", "a", lambda: {"psnr": 4}, ["W8A16", "--rotate", -1])["psnr"] == 4


def test_intervals():
    mean, half = figures.interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5 and half == pytest.approx(3.182 * (5 / 3) ** 0.5 / 2, rel=0.01)  # Student's t of 3 degrees is 3.182
    assert figures.interval([0.5]) == (0.5, None)
    even = {"psnr": [30.0, 40.0, 35.0], "velocity_errors": [0.1, 0.2, 0.3]}
    better = {"psnr": [31.0, 41.1, 35.9], "velocity_errors": [0.05, 0.1, 0.15]}
    lines = fidelity.compared({"a": better, "b": even, "c": {**even, "psnr": [50.0, 20.0, 35.0]}}, [("a", "b"), ("c", "b")]).splitlines()
    assert lines[2].count("yes") == 2 and "| +1.0 ±" in lines[2] and "| 0.50 (0.50 to 0.50) | yes |" in lines[2]
    assert lines[3].count("no difference") == 2
