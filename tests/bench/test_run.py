"""bench/run.py: both sides are measured turn by turn, and --check enforces the floors."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def bench(build, *flags):
    command = [sys.executable, ROOT / "bench/run.py", "--aerogel", build / "aerogel", *flags]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environment)


def test_peer_ratio_error_and_share_of_the_peak(build, tmp_path):
    flags = ["--only", "W8A8_DYNAMIC/4096x256x256", "--rounds", 2, "--repeat", 2, "--json", tmp_path / "out.json"]
    done = bench(build, *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["results"]
    assert row["peer"] == "torch"
    assert abs(row["ratio"] - row["peer_seconds"] / row["seconds"]) < 1e-9
    assert 0 < row["error"] < 0.02
    assert 0 < row["percent_of_peak"] < 110
    assert row["name"] in done.stdout


def test_floors_apply_to_their_problems_only():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import run
    finally:
        sys.path.pop(0)
    assert run.floor_of("linear/W8A8_DYNAMIC/1024x3072x3072", "avx2") == 1.3
    assert run.floor_of("linear/W8A8/512x5120x5120", "avx512") == 3.5
    assert run.floor_of("attention/dense/f32/4x4096x128", "avx2") == 0.9
    assert run.floor_of("attention/block_sparse_20%/bf16/4x4096x128", "amx") == 3.0
    assert run.floor_of("attention/dense/bf16/4x4096x128", "amx") is None
    assert run.floor_of("linear/W8A16/512x5120x5120", "avx2") is None
    assert run.floor_of("linear/W8A8_DYNAMIC/4096x256x256", "avx2") is None
