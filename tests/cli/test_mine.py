"""aerogel mine: a profile and a page, the same for any number of threads, and errors without leftovers."""

import base64
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

FAST = ["--steps", "2", "--prompt", "red circle moves left", "--block-size", "16"]


def mine(aerogel, model, *flags, env=None):
    done = aerogel("mine", model, *FAST, *flags, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_profile_and_summary(aerogel, tiny_pipeline, tmp_path):
    summary = json.loads(mine(aerogel, tiny_pipeline, "-o", tmp_path / "p.json", "--by-step", "--json"))
    profile = json.loads((tmp_path / "p.json").read_text())
    assert profile["latent_shape"] == summary["latent_shape"] == [4, 8, 8]
    assert (profile["steps"], profile["sparsity"], profile["block_size"]) == (2, 0.8, 16)
    assert [len(heads) for heads in profile["layers"]] == [2, 2]
    for head in summary["heads"]:
        spans = profile["layers"][head["layer"]][head["head"]]
        assert head["type"] in {span[2] for span in spans}
        for kind, curve in head["curves"].items():
            asked, density, recall = np.array(curve).T
            assert list(asked) == [0.3, 0.5, 0.7, 0.8, 0.9, 0.95]
            assert (np.diff(density) <= 0).all() and (np.diff(recall) <= 1e-4).all(), kind
            assert head["recall"][kind] == recall[3]
    assert sum(summary["head_types"].values()) == 4


def test_page_shows_maps_types_and_curves(aerogel, tiny_pipeline, tmp_path):
    text = mine(aerogel, tiny_pipeline, "-o", tmp_path / "p.json", "--html", tmp_path / "m.html")
    assert f"wrote {tmp_path / 'm.html'}" in text
    page = (tmp_path / "m.html").read_text()
    pictures = [Image.open(io.BytesIO(base64.b64decode(p, validate=True))) for p in re.findall(r"base64,([^\"]+)\"", page)]
    assert pictures and all(p.size == (64, 64) and np.asarray(p).std() > 0 for p in pictures)
    assert page.count("<rect x=") == 4 and page.count("<polyline") == 4
    assert "src=\"http" not in page and "<script" not in page


def test_threads_do_not_matter(aerogel, tiny_pipeline, tmp_path):
    profiles = []
    for threads in ("1", "3"):
        mine(aerogel, tiny_pipeline, "-o", tmp_path / "p.json", env={**os.environ, "AEROGEL_NUM_THREADS": threads})
        profiles.append((tmp_path / "p.json").read_bytes())
    assert profiles[0] == profiles[1]


def test_it_samples_as_the_flags_say(aerogel, tiny_pipeline, tmp_path):
    def recall(*flags):
        done = aerogel("mine", tiny_pipeline, "--steps", 3, *FAST[2:], "-o", tmp_path / "p.json", "--json", *flags)
        return [head["recall"] for head in json.loads(done.stdout)["heads"]]

    ways = [(), ("--shift", 1), ("--sampler", "euler"), ("--guidance", 1), ("--stagger", 0.5), ("--image-first",)]
    seen = [recall(*way) for way in ways]
    assert not any(a == b for i, a in enumerate(seen) for b in seen[:i])
    assert recall("--no-image-first", "--stagger", 0, "--seed", 0) == seen[0]


@pytest.mark.parametrize("flags, message", [
    (["--sparsity", "1"], "[mine] sparsity must be at least 0 and less than 1, got 1"),
    (["--block-size", "8"], "[mine] block_size must be 16 to 128, got 8"),
    (["--prompt", "red unicorn turns"], "unicorn"),
    (["--size", "big"], "[mine] --size must be WIDTHxHEIGHT like 64x64"),
    (["--sampler", "heun"], "euler or unipc"),
])
def test_errors_leave_nothing(aerogel, tiny_pipeline, tmp_path, flags, message):
    done = aerogel("mine", tiny_pipeline, "--steps", "2", "-o", tmp_path / "p.json", *flags)
    assert done.returncode == 1 and message in done.stderr
    assert not list(tmp_path.iterdir())
