"""aerogel bench: every problem runs, is right, and reports what it promises. How fast is `make bench`'s business."""

import json
from pathlib import Path

import pytest

PROBLEMS = Path(__file__).resolve().parents[1] / "problems"


def test_list_names_linear_and_attention(aerogel):
    names = aerogel("bench", "--list").stdout.split()
    assert "linear/W8A8_DYNAMIC/1024x3072x3072" in names
    assert "attention/block_sparse_20%/f32/4x4096x128" in names
    assert "attention/dense/int8/4x4096x128" in names


def words_of(op):
    """Lines of a problem file with speed=, as dictionaries."""
    lines = (PROBLEMS / f"{op}.txt").read_text().splitlines()
    return [dict(word.split("=") for word in line.split()) for line in lines if " speed=" in line and not line.startswith("#")]


def test_the_problems_are_those_of_the_tests(aerogel):
    """All of the files' problems with speed=, in their order, and no others; "float" stands for some schemes."""
    names = aerogel("bench", "--list").stdout.split()
    wanted = []
    for p in words_of("linear"):
        size = f"{p['m']}x{p['n']}x{p['k']}"
        listed = [name for name in names if name.startswith("linear/") and name.endswith(f"/{size}")]
        schemes = [name.split("/")[1] for name in listed] if p["speed"] == "float" else p["speed"].split(",")
        assert "FLOAT" in schemes and (p["speed"] != "float" or {"W4A16", "W8A8_MXFP8"} < set(schemes) and "W8A8" not in schemes)
        wanted += [f"linear/{scheme}/{size}" for scheme in schemes]
    for p in words_of("attention"):
        kind = f"block_sparse_{100 * float(p['density']):.0f}%" if "mask" in p else "dense"
        wanted += [f"attention/{kind}/{kept}/{p['heads']}x{p['k_len']}x{p['head_dim']}" for kept in p["speed"].split(",")]
    assert names == wanted and len(names) > 100


def test_small_problems_are_measured_with_their_error(aerogel):
    done = aerogel("bench", "--only", "4096x256x256", "--only", "4x4096x64", "--repeat", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cpu"]["level"] in ("baseline", "avx2", "avx512", "amx")
    bounds = {"FLOAT": 1e-6, "W8A8_DYNAMIC": 0.02, "W8A8": 0.02, "W8A16": 0.02, "dense": 1e-2, "block_sparse_20%": 1e-2}
    for row in report["results"]:
        bound = 0.03 if "/int8/" in row["name"] else bounds[row["name"].split("/")[1]]
        assert row["error"] < bound, row
        assert row["median_seconds"] > 0
        assert row["percent_of_peak"] > 0 and row["percent_of_peak"] == pytest.approx(100 * row["gops"] / row["peak_gops"])


def test_unknown_problem_is_an_error(aerogel):
    done = aerogel("bench", "--only", "no such thing")
    assert done.returncode == 1
    assert "--list" in done.stderr


def test_problem_beside_is_timed_in_between(aerogel):
    small = "linear/W8A8_DYNAMIC/4096x256x256"
    done = aerogel("bench", "--only", small, "--beside", "linear/FLOAT/4096x256x256", "--repeat", 3, "--json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["results"]
    assert row["name"] == small and len(row["seconds"]) == len(row["beside_seconds"]) == 3
    text = aerogel("bench", "--only", small, "--beside", small, "--repeat", 3).stdout.splitlines()
    assert text[1].endswith("x beside") and float(text[2].split()[-1]) > 0
    unknown = aerogel("bench", "--only", small, "--beside", "linear/FLOAT")
    assert unknown.returncode == 1 and "--beside" in unknown.stderr and "--list" in unknown.stderr


def test_cold_calls_are_right_too(aerogel):
    done = aerogel("bench", "--only", "linear/W8A16/1x3072x3072", "--repeat", 2, "--cold", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["results"][0]["error"] < 0.02 and report["cpu"]["cache_bytes"] > 0
