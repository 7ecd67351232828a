"""bench/run.py: both sides are measured turn by turn, and --check enforces the floors."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def script():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import run
    finally:
        sys.path.pop(0)
    return run


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
    assert row["percent_of_peak"] > 0
    assert row["name"] in done.stdout


def test_what_problems_are_compared_with_besides_pytorch(build, tmp_path):
    flags = ["--only", "attention/dense/int8/4x4096x64", "--only", "W8A8/4096x256x256", "--rounds", 1, "--repeat", 1, "--json", tmp_path / "out.json"]
    done = bench(build, *flags)
    assert done.returncode == 0, done.stderr
    layer, attention = json.loads((tmp_path / "out.json").read_text())["results"]
    assert (layer["peer"], attention["peer"]) == ("torch", "own float32") and layer["ratio_to_own_float32"] > 0
    assert abs(attention["ratio"] - attention["peer_seconds"] / attention["seconds"]) < 1e-9
    run = script()
    assert run.own_peer("attention/block_sparse_20%/bf16/4x4096x128") == ("own dense", "attention/dense/bf16/4x4096x128")
    assert run.own_peer("linear/W4A16/16x3072x3072") == ("own float32", "linear/FLOAT/16x3072x3072")
    assert run.own_peer("linear/FLOAT/16x3072x3072") is run.own_peer("attention/dense/f32/4x4096x128") is None


def test_floors_apply_to_their_problems_only():
    run = script()
    assert run.floor_of("linear/W8A8_DYNAMIC/1024x3072x3072", "avx2") == 1.3
    assert run.floor_of("linear/W8A8/512x5120x5120", "avx512") == 3.5
    assert run.floor_of("attention/dense/f32/4x4096x128", "avx2") == 0.9
    assert run.floor_of("attention/block_sparse_20%/bf16/4x4096x128", "amx") == 3.0
    assert run.floor_of("attention/dense/int8/4x4096x128", "avx2") == 1.5
    assert run.floor_of("attention/dense/bf16/4x4096x128", "amx") is None
    assert run.floor_of("attention/dense/bf16/4x4096x128", "avx512_bf16") == 1.0
    assert run.floor_of("linear/W8A16/512x5120x5120", "avx2") is None
    assert run.floor_of("linear/W8A8_DYNAMIC/4096x256x256", "avx2") is None


def test_check_complains_of_missed_floors_and_rates_above_the_peak():
    run = script()
    good = {"name": "a", "floor": 1.3, "ratio": 1.3, "percent_of_peak": 109.0}
    assert run.complaint([good, {**good, "floor": None, "ratio": 0.5}]) == ""
    slow, fast = {**good, "name": "b", "ratio": 1.29}, {**good, "name": "c", "percent_of_peak": 110.0}
    assert run.complaint([good, slow, fast]) == "under the floor: b; faster than the peak: c"


def test_large_problems_are_called_less_often():
    calls = script().calls_per_turn
    assert calls("linear/FLOAT/1024x3072x3072", 5) == calls("attention/dense/f32/4x4096x128", 5) == 5
    assert calls("attention/dense/f32/24x4608x128", 5) == calls("attention/block_sparse_20%/int8/40x4096x128", 5) == 1
    assert calls("linear/W8A8_DYNAMIC/1024x13824x5120", 5) == 1 and calls("linear/W8A8_DYNAMIC/1024x8960x3072", 5) == 4
