"""Runs one sparse call in the program sparse_dump and compares all it did with the slow reference."""

import json
import subprocess
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import rainfusion_reference as reference
from safetensors import numpy as safetensors

MARGIN = 3  # unused columns behind each row of q, k, v and o


@dataclass
class Call:
    """Arrays [batch, heads, tokens, head_dim] and what is asked of them."""

    video: reference.Video
    kind: str
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    layout: str = "BNSD"
    options: dict = field(default_factory=dict)

    @property
    def scale(self):
        return self.options.get("scale") or self.q.shape[-1] ** -0.5

    def request(self):
        video = self.video
        return {
            "type": self.kind, "sparsity": video.sparsity, "latent_shape": video.latent, "txt_len": video.txt_len,
            "block_size": video.block, "protect_first_frame": video.protect, "layout": self.layout,
            "head_dim": self.q.shape[-1], **self.options,
        }


@dataclass
class Result:
    report: dict
    o: np.ndarray  # [batch, heads, tokens, head_dim]
    arrays: dict

    @property
    def types(self):
        return [head["type"] for head in self.report["heads"]]


def coarse(rng, *shape):
    """Random multiples of 1/8 in [-2, 2]: all their sums are exact, so equal scores are truly equal."""
    return rng.integers(-16, 17, shape).astype(np.float32) / 8


def random_call(seed, video, kind, heads=(1, 2), head_dim=32, *, dtype=np.float32, layout="BNSD"):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((*heads, video.tokens, head_dim)).astype(dtype) for _ in range(3))
    return Call(video, kind, q, k, v, layout)


def _stored(array, layout):
    """As the program reads it: in its layout, with a margin of NaN behind each row."""
    array = array if layout == "BNSD" else array.transpose(0, 2, 1, 3)
    return np.pad(array, [(0, 0)] * 3 + [(0, MARGIN)], constant_values=np.nan)


def run(build, tmp_path, call, env=None):
    request, inputs, output = tmp_path / "request.json", tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    request.write_text(json.dumps(call.request()))
    arrays = {name: np.ascontiguousarray(_stored(getattr(call, name), call.layout)) for name in "qkv"}
    safetensors.save_file(arrays, inputs)
    command = [build / "tests" / "sparse_dump", request, inputs, output]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    arrays = safetensors.load_file(output)
    o = arrays.pop("o")
    assert np.isnan(o[..., -MARGIN:].astype(np.float32)).all(), "the margin of o was written"
    o = o[..., :-MARGIN]
    return Result(json.loads(done.stdout), o if call.layout == "BNSD" else o.transpose(0, 2, 1, 3), arrays)


def heads_of(call):
    batch, heads = call.q.shape[:2]
    return [(b, h) for b in range(batch) for h in range(heads)]


def check_output(call, result, expected):
    """expected(b, h) -> (block mask or None for dense, order of q, order of k). Checks orders, masks, densities
    exactly and outputs within the reference's bound."""
    video = call.video
    for index, (b, h) in enumerate(heads_of(call)):
        mask, q_order, k_order = expected(b, h)
        if result.arrays:
            np.testing.assert_array_equal(result.arrays["q_order"][index], q_order)
            np.testing.assert_array_equal(result.arrays["k_order"][index], k_order)
            np.testing.assert_array_equal(result.arrays["mask"][b, h] != 0, mask)
        assert abs(result.report["heads"][index]["density"] - reference.density(video, mask)) < 1e-12
        pairs = reference.pair_mask(video, mask, q_order, k_order)
        out, bound = reference.attention(call.q[b, h], call.k[b, h], call.v[b, h], call.scale, pairs)
        got = result.o[b, h].astype(np.float64)
        if call.q.dtype == ml_dtypes.bfloat16:
            # The weights may be rounded to bfloat16 before they meet the values, and the output is.
            bound = bound + 2.0**-8 * np.abs(call.v[b, h].astype(np.float64)).max()
        error = np.abs(got - out).max(axis=1)
        assert (error <= bound).all(), f"head {index}: error {error.max()}, bound {bound[error.argmax()]}"


def dense_expectation(call):
    order = reference.raster(call.video)
    full = np.ones((call.video.blocks, call.video.blocks), bool)
    return lambda b, h: (full, order, order)
