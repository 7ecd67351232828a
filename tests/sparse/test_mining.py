"""Mining against the slow reference: recalls of every mask at every sparsity, pictures, and the profile they give."""

import json
import subprocess

import numpy as np
import pytest
import rainfusion_reference as reference
from safetensors.numpy import save_file

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
SIDE = 64
ERROR = 1e-4  # float32 softmax of scores of a few dozen, against float64


def mine(build, tmp_path, latent, q, k, **changes):
    """q, k [steps, batch, tokens, heads, d] -> (what the program prints, the profile)."""
    request = {"sparsity": 0.75, "block_size": 16, "protect_first_frame": True, "min_recall": 0.0, "by_step": False,
               "latent_shape": latent, "steps": len(q), "profile": str(tmp_path / "profile.json"), **changes}
    (tmp_path / "request.json").write_text(json.dumps(request))
    arrays = {f"{name}{step}": np.ascontiguousarray(x) for name, all_steps in (("q", q), ("k", k)) for step, x in enumerate(all_steps)}
    save_file(arrays, tmp_path / "in.safetensors")
    done = subprocess.run([build / "tests/mining_dump", tmp_path / "request.json", tmp_path / "in.safetensors"],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads((tmp_path / "profile.json").read_text())


def sample(video):
    queries = reference.spread_sample(video.tokens - video.sink, 128) + video.sink
    return queries, reference.spread_sample(video.tokens, 8192)


def attention(video, q, k):
    """The sampled attention map of one head, rows summing to 1."""
    queries, keys = sample(video)
    logits = q[queries].astype(np.float64) @ k[keys].astype(np.float64).T * q.shape[1] ** -0.5
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def pair_mask(video, kind):
    """[tokens, tokens] bool in raster order: pairs that the blocks of the mask compute."""
    q_order, k_order = reference.orders(video, kind)
    q_block, k_block = np.empty(video.tokens, int), np.empty(video.tokens, int)
    q_block[q_order] = k_block[k_order] = np.arange(video.tokens) // video.block
    return reference.static_mask(video, kind)[q_block][:, k_block]


@pytest.mark.parametrize("latent, protect", [((6, 5, 7), True), ((12, 16, 16), True), ((12, 16, 16), False), ((1, 9, 40), False)])
def test_recalls_and_pictures(build, tmp_path, latent, protect):
    rng = np.random.default_rng(3)
    tokens = int(np.prod(latent))
    # Wide scores, so that masks differ much in what they keep.
    q, k = (2 * rng.standard_normal((2, 2, tokens, 3, 16)).astype(np.float32) for _ in range(2))
    got, _ = mine(build, tmp_path, latent, q, k, protect_first_frame=protect)
    for head in range(3):
        maps = []
        for step in range(2):
            video = reference.Video(latent, 0, 16, 0.75, protect)
            maps.append([attention(video, q[step, b, :, head], k[step, b, :, head]) for b in range(2)])
        for kind in reference.TYPES:
            for i, sparsity in enumerate((0.75, *SPARSITIES)):
                asked = reference.Video(latent, 0, 16, sparsity, protect)
                queries, keys = sample(asked)
                pairs = pair_mask(asked, kind)
                kept = [[np.where(pairs[np.ix_(queries, keys)], m, 0).sum(axis=1).mean() for m in step] for step in maps]
                recall, density = got["heads"][head]["curves"][kind][i]
                assert abs(recall - np.mean(kept)) < ERROR
                assert abs(density - pairs.mean()) < 1e-12
                if i == 0:
                    np.testing.assert_allclose(got["heads"][head]["recall"][kind], np.mean(kept, axis=1), atol=ERROR)
        queries, keys = sample(video)
        total, rows = np.zeros((SIDE, SIDE)), np.zeros(SIDE)
        for one in (m for step in maps for m in step):
            np.add.at(total, np.ix_(queries * SIDE // tokens, keys * SIDE // tokens), one)
            np.add.at(rows, queries * SIDE // tokens, 1)
        picture = np.reshape(got["heads"][head]["picture"], (SIDE, SIDE))
        np.testing.assert_allclose(picture, total / np.maximum(rows, 1)[:, None], atol=ERROR)


def test_mask_pictures_show_the_masks(build, tmp_path):
    latent = (16, 8, 8)  # 1024 tokens: every pair is looked at
    q = k = np.zeros((1, 1, 1024, 1, 16), np.float32)
    got, _ = mine(build, tmp_path, latent, q, k)
    for kind in reference.TYPES:
        pairs = pair_mask(reference.Video(latent, 0, 16, 0.75), kind)
        cells = pairs.reshape(SIDE, 16, SIDE, 16).mean(axis=(1, 3))
        np.testing.assert_allclose(np.reshape(got["masks"][kind], (SIDE, SIDE)), cells, atol=1e-6)


def structured(kind, latent, rng, d=32):
    """q = k of a head whose tokens attend to their own frame or to their own place in all frames."""
    frame, place = np.divmod(np.arange(np.prod(latent)), latent[1] * latent[2])
    labels = frame if kind == "spatial" else place
    directions = rng.standard_normal((labels.max() + 1, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return (11 * directions[labels]).astype(np.float32)


def test_profiles_name_the_types(build, tmp_path):
    latent = (16, 8, 8)
    rng = np.random.default_rng(5)
    first = np.stack([structured("spatial", latent, rng), structured("temporal", latent, rng), rng.standard_normal((1024, 32))], 1)
    second = np.stack([structured("spatial", latent, rng), structured("spatial", latent, rng), rng.standard_normal((1024, 32))], 1)
    qk = np.stack([first, first, second])[:, None].astype(np.float32)
    _, profile = mine(build, tmp_path, latent, qk, qk, by_step=True, min_recall=0.6)
    assert {key: profile[key] for key in ("aerogel_sparse_profile", "latent_shape", "block_size", "sparsity", "steps")} == {
        "aerogel_sparse_profile": 1, "latent_shape": [16, 8, 8], "block_size": 16, "sparsity": 0.75, "steps": 3}
    (heads,) = profile["layers"]
    assert [[span[:3] for span in head] for head in heads] == [
        [[0, 3, "spatial"]], [[0, 2, "temporal"], [2, 3, "spatial"]], [[0, 3, "dense"]]]
    assert heads[0][0][3] > 0.95 and 0.2 < heads[2][0][3] < 0.6
    _, whole = mine(build, tmp_path, latent, qk, qk)
    assert [[span[:3] for span in head] for head in whole["layers"][0]][1] == [[0, 3, "temporal"]]


def test_bad_sizes_are_refused(build, tmp_path):
    q = np.zeros((1, 1, 24, 1, 16), np.float32)
    with pytest.raises(AssertionError, match=r"\[mine\] q and k must be \[batch,30,1,head_dim\], got q f32\[1,24,1,16\]"):
        mine(build, tmp_path, (5, 2, 3), q, q)
    with pytest.raises(AssertionError, match=r"\[mine\] sparsity must be at least 0 and less than 1, got 1"):
        mine(build, tmp_path, (4, 2, 3), q, q, sparsity=1.0)
