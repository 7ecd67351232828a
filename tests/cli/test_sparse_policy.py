"""aerogel generate with mined profiles and with masks kept for several steps."""

import json

import pytest

# 8 frames of 8 x 8 tokens in blocks of 16: 32 video blocks, just enough to be sparse.
SPARSE = ["--prompt", "red circle moves left", "--frames", "8", "--steps", "5", "--block-size", "16", "--sparsity", "0.7"]


def generate(aerogel, model, path, *flags):
    done = aerogel("generate", model, *SPARSE, "-o", path, "--json", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["sparse"], path.read_bytes()


def write_profile(path, layers, **changes):
    head = {"aerogel_sparse_profile": 1, "latent_shape": [8, 8, 8], "block_size": 16, "sparsity": 0.7, "protect_first_frame": True,
            "steps": 5, "layers": layers, **changes}
    path.write_text(json.dumps(head))
    return path


def test_masks_are_kept_between_refreshes(aerogel, tiny_pipeline, tmp_path):
    for kind in ("rf_v1", "rf_v2", "ada_bsa"):
        fresh, video = generate(aerogel, tiny_pipeline, tmp_path / "v.safetensors", "--sparse", kind)
        assert [step["predicted_calls"] for step in fresh["steps"]] == [4] * 5  # 2 blocks, with and without caption
        kept, kept_video = generate(aerogel, tiny_pipeline, tmp_path / "v.safetensors", "--sparse", kind, "--mask-refresh-steps", 3,
                                    "--start-step", 1)
        assert [(step["step"], step["predicted_calls"]) for step in kept["steps"]] == [(1, 4), (2, 0), (3, 0), (4, 4)]
        heads = {(c["step"], c["block"], c["conditional"]): c["heads"] for c in kept["calls"]}
        for (step, block, conditional), now in heads.items():
            first = heads[1 if step < 4 else 4, block, conditional]
            assert [(h["type"], h["density"]) for h in now] == [(h["type"], h["density"]) for h in first]
        again, same = generate(aerogel, tiny_pipeline, tmp_path / "v.safetensors", "--sparse", kind, "--mask-refresh-steps", 1)
        assert same == video and kept_video != video and again["density"] == fresh["density"]


def test_calls_that_stay_dense_are_counted_and_named_once(aerogel, tiny_pipeline, tmp_path):
    few = [*SPARSE[:2], "--frames", "7", *SPARSE[4:], "--sparse", "rf_v2", "-o", tmp_path / "v.safetensors"]  # 28 blocks
    text = aerogel("generate", tiny_pipeline, *few).stdout
    report = json.loads(aerogel("generate", tiny_pipeline, *few, "--json").stdout)["sparse"]
    calls = len(report["calls"])
    assert calls == 20 and report["stayed_dense"] == {"fewer than 32 video blocks": calls}
    assert text.count("stayed dense") == 1 and f"{calls} of {calls} calls stayed dense: fewer than 32 video blocks" in text


def test_a_profile_pins_the_head_types(aerogel, tiny_pipeline, tmp_path):
    layers = [[[[0, 2, "spatial", 0.9], [2, 5, "dense", 0.1]], [[0, 5, "temporal", 0.8]]], [[[0, 5, "textural", 0.5]], [[0, 5, "spatial", 0.9]]]]
    profile = write_profile(tmp_path / "p.json", layers)
    report, _ = generate(aerogel, tiny_pipeline, tmp_path / "v.safetensors", "--profile", profile)
    assert report["type"] == "rf_v1"
    for call in report["calls"]:
        wanted = [["spatial" if call["step"] < 2 else "dense", "temporal"], ["textural", "spatial"]][call["block"]]
        assert [head["type"] for head in call["heads"]] == wanted
    assert all(step["predicted_calls"] == 0 for step in report["steps"])


def test_a_mined_profile_gives_the_video_of_recognition_where_they_agree(aerogel, tiny_pipeline, tmp_path):
    recognised, _ = generate(aerogel, tiny_pipeline, tmp_path / "v.safetensors", "--sparse", "rf_v1", "--guidance", 1)
    spans = {}
    for call in recognised["calls"]:
        for head, found in enumerate(call["heads"]):
            spans.setdefault((call["block"], head), []).append([call["step"], call["step"] + 1, found["type"], found["recall"]])
    profile = write_profile(tmp_path / "p.json", [[spans[block, head] for head in range(2)] for block in range(2)])
    video = (tmp_path / "v.safetensors").read_bytes()
    _, pinned = generate(aerogel, tiny_pipeline, tmp_path / "v.safetensors", "--profile", profile, "--guidance", 1)
    assert pinned == video


def test_settings_of_the_profile_and_flags(aerogel, tiny_pipeline, tmp_path):
    profile = tmp_path / "p.json"
    done = aerogel("mine", tiny_pipeline, "--prompt", "blue star turns", "--frames", "8", "--steps", "2", "--block-size", "16", "--sparsity", "0.6", "-o", profile)
    assert done.returncode == 0, done.stderr
    plain = ["--prompt", "blue star turns", "--frames", "8", "--steps", "2", "-o", tmp_path / "v.safetensors", "--json", "--profile", profile]
    report = json.loads(aerogel("generate", tiny_pipeline, *plain).stdout)["sparse"]
    assert (report["type"], report["sparsity"], report["block_size"]) == ("rf_v1", 0.6, 16)
    report = json.loads(aerogel("generate", tiny_pipeline, *plain, "--sparsity", "0.9").stdout)["sparse"]
    assert (report["sparsity"], report["block_size"]) == (0.9, 16)


DENSE = [[0, 5, "dense", 0.0]]


@pytest.mark.parametrize("content, message", [
    (([[DENSE, DENSE]], {}), "the profile has 1 layer, asked for layer 1"),
    (([[DENSE], [DENSE]], {}), "the profile has 1 heads in layer 0, the model has 2"),
    (([[DENSE, [[0, 4, "dense", 0.0]]]], {}), "layers[0][1] must be spans that end at step 5"),
    (([[[[1, 5, "dense", 0.0]]]], {}), "layers[0][0][0] must be a span [0, end_step, type, recall], got [1,5,\"dense\",0.0]"),
    (([[[[0, 5, "block_mean", 0.0]]]], {}), "head types dense, spatial, temporal, textural, got \"block_mean\""),
    (([[[[0, 5, "dense", 1.5]]]], {}), "layers[0][0][0][3] must be a number from 0 to 1, got 1.5"),
    (([], {}), "layers must be a list of layers, got []"),
    (([[DENSE]], {"aerogel_sparse_profile": 2}), "aerogel_sparse_profile must be 1, the mark of a profile made by aerogel mine, got 2"),
    (([[DENSE]], {"latent_shape": [8, 8]}), "latent_shape must be [frames, height, width], got [8,8]"),
    (([[DENSE]], {"steps": 0}), "steps must be a whole number from 1 to 1000000000, got 0"),
    (([[DENSE]], {"sparsity": "high"}), "sparsity must be a number from 0 to 1, got \"high\""),
])
def test_bad_profiles_are_named(aerogel, tiny_pipeline, tmp_path, content, message):
    profile = write_profile(tmp_path / "p.json", content[0], **content[1])
    done = aerogel("generate", tiny_pipeline, *SPARSE, "-o", tmp_path / "v.gif", "--profile", profile)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert not (tmp_path / "v.gif").exists()


def test_a_profile_goes_with_rf_v1_only(aerogel, tiny_pipeline, tmp_path):
    profile = write_profile(tmp_path / "p.json", [[DENSE, DENSE]] * 2)
    done = aerogel("generate", tiny_pipeline, *SPARSE, "-o", tmp_path / "v.gif", "--profile", profile, "--sparse", "rf_v2")
    assert done.returncode == 1 and "--profile pins the head types of rf_v1, got --sparse rf_v2" in done.stderr
