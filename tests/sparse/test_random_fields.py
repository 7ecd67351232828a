"""ARM on synthetic heads whose kind is known: 3-D Gaussian random fields over the video, smooth along the axes that the kind of head sees
and rough along the others."""

import numpy as np
import pytest
from rainfusion_reference import Video, on_checkerboard

aerogel = pytest.importorskip("aerogel")

HEAD_DIM = 32
HEADS_OF_A_KIND = 12


def random_field(rng, latent, lengths):
    """[T*H*W, HEAD_DIM], unit rows: white noise blurred by Gaussians of these correlation lengths (in tokens) along T, H and W."""
    field = rng.standard_normal((*latent, HEAD_DIM))
    for axis, length in enumerate(lengths):
        n = latent[axis]
        steps = np.minimum(np.arange(n), n - np.arange(n))
        kernel = np.exp(-0.5 * (steps / length) ** 2)
        spectrum = np.fft.fft(field, axis=axis) * np.fft.fft(kernel).reshape([-1 if i == axis else 1 for i in range(4)])
        field = np.fft.ifft(spectrum, axis=axis).real
    field = field.reshape(-1, HEAD_DIM)
    return field / np.linalg.norm(field, axis=1, keepdims=True)


def head(rng, video, kind):
    """(q, k), [T*H*W, HEAD_DIM]. The sharpness of the softmax and the lengths vary from head to head."""
    latent, sharpness = video.latent, rng.uniform(40, 120)
    short, long = rng.uniform(0.3, 0.8), rng.uniform(1.0, 3.0)
    noise = 0.1 * random_field(rng, latent, (0.1, 0.1, 0.1))
    if kind == "textural":  # the same salient places of every frame, for every query
        direction = random_field(rng, (1, 1, 1), (1, 1, 1))
        q, k = np.broadcast_to(direction, noise.shape), on_checkerboard(video)[:, None] * direction
        return [(x + noise) * sharpness**0.5 for x in (q, k)]
    lengths = (short, long * latent[1], long * latent[2]) if kind == "spatial" else (long * latent[0], short, short)
    field = random_field(rng, latent, lengths)
    return [(field + noise) * sharpness**0.5 for _ in "qk"]


@pytest.mark.parametrize("latent, sparsity", [((16, 12, 10), 0.8), ((13, 9, 14), 0.7), ((24, 8, 8), 0.8), ((17, 11, 9), 0.85)])
def test_heads_are_named_by_their_correlations(latent, sparsity):
    video = Video(latent, 0, 16, sparsity)
    rng = np.random.default_rng(sum(latent))
    kinds = [kind for kind in ("spatial", "temporal", "textural") for _ in range(HEADS_OF_A_KIND)]
    heads = [head(rng, video, kind) for kind in kinds]
    q, k = (np.stack([h[side] for h in heads])[None].astype(np.float32) for side in (0, 1))
    options = {"sparse_type": "rf_v1", "latent_shape_q": latent, "block_size": 16, "sparsity": sparsity}
    _, report = aerogel.sparse_attention(q, k, k, return_report=True, **options)
    named = [h["type"] for h in report["heads"]]
    right = np.array([a == b for a, b in zip(named, kinds)])
    assert right.mean() >= 0.95, list(zip(named, kinds))
    for h in report["heads"]:
        assert h["recall"] == h["recalls"][h["type"]] == max(h["recalls"].values())
    # Nothing to recognise: rough in every direction. No mask keeps what a known kind's mask keeps, and min_recall sends the head to dense.
    rough = random_field(rng, latent, (0.1, 0.1, 0.1))[None, None].astype(np.float32) * 8
    _, report = aerogel.sparse_attention(rough, rough, rough, return_report=True, min_recall=0.75, **options)
    assert report["dense_because"] == "every head is under min_recall" and report["heads"][0]["recall"] < 0.75
