"""aerogel bench: every problem runs, is right, and reports what it promises. How fast is `make bench`'s business."""

import json
import os
from pathlib import Path

import pytest

PROBLEMS = Path(__file__).resolve().parents[1] / "problems"


def test_list_names_linear_and_attention(aerogel):
    names = aerogel("bench", "--list").stdout.split()
    assert "linear/W8A8_DYNAMIC/1024x3072x3072" in names
    assert "attention/block_sparse_20%/f32/4x4096x128" in names
    assert "attention/dense/int8/4x4096x128" in names


def words_of(file, key):
    """Lines of a problem file with this key, as dictionaries."""
    lines = (PROBLEMS / f"{file}.txt").read_text().splitlines()
    return [dict(word.split("=") for word in line.split()) for line in lines if f"{key}=" in line and not line.startswith("#")]


def problems_of_models():
    """{model: names of its problems}: layers with up to 1024 rows, attention with as many tokens as are measured and those of the text."""
    found = {}
    for p in words_of("models", "model"):
        frames, height, width = (int(n) for n in p.get("measured", p["latent"]).split("x"))
        tokens = frames * height * width + int(p.get("text", 0))
        layers = [f"linear/{scheme}/{min(tokens, 1024)}x{layer}" for layer in p["layers"].split(",") for scheme in ("FLOAT", "BF16", "W8A8_DYNAMIC")]
        attentions = [("dense", f"{tokens}")] + ([("cross", f"{tokens}x{p['cross']}")] if "cross" in p else [])
        found[p["model"]] = layers + [f"attention/{name}/{kind}/{p['heads']}x{size}x{p['head_dim']}" for name, size in attentions for kind in ("f32", "bf16", "int8")]
    return found


def test_the_problems_are_those_of_the_tests(aerogel):
    """All of the files' problems with speed=, in their order, then those of the models, and no others; "float" stands for some schemes."""
    names = aerogel("bench", "--list").stdout.split()
    wanted = []
    for p in words_of("linear", "speed"):
        size = f"{p['m']}x{p['n']}x{p['k']}"
        listed = [name for name in names if name.startswith("linear/") and name.endswith(f"/{size}")]
        schemes = [name.split("/")[1] for name in listed] if p["speed"] == "float" else p["speed"].split(",")
        assert "FLOAT" in schemes and (p["speed"] != "float" or {"W4A16", "W8A8_MXFP8"} < set(schemes) and "W8A8" not in schemes)
        wanted += [f"linear/{scheme}/{size}" for scheme in schemes]
    for p in words_of("attention", "speed"):
        kind = f"block_sparse_{100 * float(p['density']):.0f}%" if "mask" in p else "dense"
        wanted += [f"attention/{kind}/{kept}/{p['heads']}x{p['k_len']}x{p['head_dim']}" for kept in p["speed"].split(",")]
    wanted += [name for own in problems_of_models().values() for name in own]
    assert names == list(dict.fromkeys(wanted)) and len(names) > 150


def test_the_problems_of_a_model_are_found_by_its_name(aerogel):
    for model, wanted in problems_of_models().items():
        assert sorted(aerogel("bench", "--list", "--only", model).stdout.split()) == sorted(wanted)
    assert len(problems_of_models()) >= 8


def test_small_problems_are_measured_with_their_error(aerogel):
    done = aerogel("bench", "--only", "4096x256x256", "--only", "4x4096x64", "--repeat", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["cpu"]["level"] in ("baseline", "avx2", "avxvnni", "avx512", "avx512_bf16", "amx")
    bounds = {"FLOAT": 1e-6, "BF16": 4e-3, "W8A8_DYNAMIC": 0.02, "W8A8": 0.02, "W8A16": 0.02, "dense": 1e-2, "block_sparse_20%": 1e-2}
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


def test_a_gpu_is_measured(aerogel, monkeypatch):
    """On the emulated card: how long it takes there says nothing."""
    build = Path(os.environ.get("AEROGEL_BUILD", Path(__file__).resolve().parents[2] / "build/release"))
    driver = build / "libaerogel_fake_driver.so"
    if not driver.exists() or not (build / "cuda").exists():
        pytest.skip("no emulator or no CUDA kernels (no nvcc) in this build")
    monkeypatch.setenv("AEROGEL_CUDA_DRIVER", str(driver))
    name = "linear/W8A8_DYNAMIC/4096x256x256"
    done = aerogel("bench", "--device", "cuda", "--only", name, "--repeat", 1, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (row,) = report["results"]
    assert report["device"] == "cuda:0" and row["name"] == name and row["percent_of_peak"] is None and 1e-4 < row["error"] < 0.02
    done = aerogel("bench", "--device", "cuda:7", "--only", name)
    assert done.returncode == 1 and "no cuda:7" in done.stderr


def test_a_device_has_a_name(aerogel):
    for name in ("gpu", "cuda:", "cuda:x", "cuda1"):
        done = aerogel("bench", "--device", name)
        assert done.returncode == 1 and "--device must be cpu, cuda or cuda:N" in done.stderr, name
