"""Steps that leave blocks out, against FirstBlockCacheConfig of diffusers, whose hooks run with Wan and Qwen-Image; the
other families; what the command does with it."""
import json
import os
import subprocess

import pytest
import torch
import wan_models
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_first_block_cache
from diffusers.models.cache_utils import CacheMixin
from flux2_models import random_inputs as flux2_inputs
from flux2_models import random_model as flux2_model
from image_models import QwenImage, ZImage
from safetensors.torch import load_file, save_file
from wan_models import PROGRAMS, ROOT, run_program

PASSES = 12


def wan():
    model = wan_models.random_model(num_layers=3)
    return model, wan_models.random_inputs(model, (2, 3, 5)), wan_models.reference


def z_image():
    model = ZImage.model(n_layers=3)
    return model, ZImage.inputs(model, (3, 5))


def flux2():
    model = flux2_model()
    return model, flux2_inputs(model, (3, 5))


def qwen_image():
    model = QwenImage.model(num_layers=3)
    return model, QwenImage.inputs(model, (3, 5)), QwenImage.reference


def passes_of(inputs):
    """A sample that drifts, fast at first and slowly later, as the timestep falls."""
    other = torch.randn(inputs["hidden_states"].shape, generator=torch.Generator().manual_seed(7))
    shares = [1 - 0.75 ** i for i in range(PASSES)]
    samples = torch.stack([inputs["hidden_states"] * (1 - 0.5 * s) + 0.5 * s * other for s in shares])
    times = torch.stack([inputs["timestep"] * 0 + 1000 * (1 - 0.6 * s) for s in shares])
    return {**inputs, "hidden_states": samples, "timestep": times}


def cached(folder, passes, kind, threshold, work):
    save_file({k: v.contiguous() for k, v in passes.items()}, work / "in.safetensors")
    done = run_program("cached_forward", folder, work / "in.safetensors", work / "out.safetensors", kind, threshold)
    assert done.returncode == 0, done.stderr
    return load_file(work / "out.safetensors")


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def middle_change(folder, passes, work):
    """A threshold that leaves out about half of the passes, far from any of them."""
    full = cached(folder, passes, "first-block", 1e-9, work)
    assert full["skipped"].sum() == 0 and full["change"][0] == -1
    changes = sorted(full["change"][1:].tolist())
    return (changes[PASSES // 2] + changes[PASSES // 2 + 1]) / 2


@pytest.mark.parametrize("family", [wan, qwen_image], ids=lambda f: f.__name__)
def test_the_same_as_diffusers(family, tmp_path):
    model, inputs, reference = family()
    model.save_pretrained(tmp_path / "model")
    passes = passes_of(inputs)
    threshold = middle_change(tmp_path / "model", passes, tmp_path)
    ours = cached(tmp_path / "model", passes, "first-block", threshold, tmp_path)
    assert 2 <= ours["skipped"].sum() <= PASSES - 3
    apply_first_block_cache(model, FirstBlockCacheConfig(threshold=threshold))
    for i in range(PASSES):
        single = {**inputs, "hidden_states": passes["hidden_states"][i], "timestep": passes["timestep"][i]}
        with CacheMixin.cache_context(model, "cond"):
            theirs = reference(model, single, torch.float32)["output"].flatten()
        assert relative(ours["output"][i], theirs) <= 1e-5, (i, ours["skipped"], ours["change"])


@pytest.mark.parametrize("family", [z_image, flux2], ids=lambda f: f.__name__)
def test_other_families_leave_blocks_out(family, tmp_path):
    model, inputs = family()
    folder, passes = tmp_path / "model", passes_of(inputs)
    model.save_pretrained(folder)
    threshold = middle_change(folder, passes, tmp_path)
    full = cached(folder, passes, "none", 1, tmp_path)["output"]
    assert torch.equal(cached(folder, passes, "taylor", 0, tmp_path)["output"], full)
    reused, along = (cached(folder, passes, kind, threshold, tmp_path) for kind in ("first-block", "taylor"))
    assert torch.equal(reused["skipped"], along["skipped"])  # the first block decides, and it is never left out
    assert 2 <= reused["skipped"].sum() <= PASSES - 3
    for some in (reused, along):
        for i in range(PASSES):
            assert torch.equal(some["output"][i], full[i]) == (some["skipped"][i] == 0)
        assert 0 < relative(some["output"], full) < 1


def generate(work, *options):
    done = subprocess.run([PROGRAMS.parent / "aerogel", "generate", ROOT / "examples/shapes_dit", "--prompt",
                           "red circle moves left", "--steps", "12", "--frames", "2", "--json", "-o", work / "v.safetensors",
                           *map(str, options)], capture_output=True, text=True, env={**os.environ, "AEROGEL_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), load_file(work / "v.safetensors")["video"]


def test_the_command_tells_what_was_left_out(tmp_path):
    plain, video = generate(tmp_path)
    assert "cache" not in plain
    unused, same = generate(tmp_path, "--cache", "first-block", "--cache-threshold", 0)
    assert torch.equal(same, video)
    assert unused["cache"] == {"kind": "first-block", "threshold": 0, "cached_passes": []}
    errors, hits = [], []
    for threshold in (0.03, 0.1, 0.4):
        report, other = generate(tmp_path, "--cache", "first-block", "--cache-threshold", threshold)
        cache = report["cache"]
        assert (cache["kind"], cache["threshold"]) == ("first-block", threshold)
        assert all(0 < one["step"] < 12 for one in cache["cached_passes"])
        hits.append(len(cache["cached_passes"]))
        errors.append(relative(other, video))
    assert hits == sorted(hits) and hits[-1] > hits[0] and errors == sorted(errors), (hits, errors)
    done = subprocess.run([PROGRAMS.parent / "aerogel", "generate", ROOT / "examples/shapes_dit", "--prompt", "x", "--cache",
                           "second", "-o", tmp_path / "v.gif"], capture_output=True, text=True)
    assert done.returncode != 0 and "none, first-block or taylor, got 'second'" in done.stderr
    done = subprocess.run([PROGRAMS.parent / "aerogel", "generate", ROOT / "examples/shapes_dit", "--prompt", "x", "--cache-threshold",
                           "0.1", "-o", tmp_path / "v.gif"], capture_output=True, text=True)
    assert done.returncode != 0 and "--cache-threshold says nothing without --cache" in done.stderr
