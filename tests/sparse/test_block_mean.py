"""rf_v2 against the slow reference: token orders, masks and densities exactly, outputs within bounds."""

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import rainfusion_reference as reference
from sparse_calls import Call, check_output, coarse, random_call, run

# (latent, block): at least 32 video blocks; multiples of 8, remainders in height, width and both, frames of
# one remainder only, odd and single frames, videos that do and do not fill their last block.
LATENTS = [
    ((9, 8, 8), 16), ((8, 16, 8), 16), ((4, 8, 24), 16), ((7, 10, 8), 16), ((6, 8, 11), 16), ((5, 10, 11), 16),
    ((33, 4, 4), 16), ((13, 7, 9), 16), ((40, 3, 5), 16), ((100, 1, 6), 16), ((1, 24, 24), 16),
    ((8, 16, 16), 64), ((5, 20, 21), 64), ((11, 13, 15), 64), ((7, 11, 13), 24), ((5, 16, 8), 19),
]
SPARSITIES = [0.1, 0.5, 0.75, 0.8, 0.95]
TEXTS = [0, 1, 77, 200]


def expectation(call):
    order = reference.windowed(call.video)
    return lambda b, h: (reference.block_mean_mask(call.video, call.q[b, h], call.k[b, h], call.scale), order, order)


def cases():
    """Every latent with every text length; the other settings rotate so that all of them meet."""
    rest = itertools.cycle(itertools.product(SPARSITIES, ["BNSD", "BSND"], [True, False, True]))
    for number, ((latent, block), txt_len) in enumerate(itertools.product(LATENTS, TEXTS)):
        sparsity, layout, protect = next(rest)
        protect = protect and latent[0] > 1
        yield pytest.param(reference.Video(latent, txt_len, block, sparsity, protect), layout, number,
                           id=f"{'x'.join(map(str, latent))}-t{txt_len}-p{block}-s{sparsity}-{layout}-{protect}")


@pytest.mark.parametrize("video, layout, number", list(cases()))
def test_agrees_with_the_reference(build, tmp_path, video, layout, number):
    heads = [(1, 2), (2, 1), (1, 1), (2, 3)][number % 4]
    call = random_call(number, video, "rf_v2", heads, [32, 64, 40][number % 3], layout=layout)
    result = run(build, tmp_path, call)
    assert result.report["dense_because"] == ""
    assert set(result.types) == {"block_mean"}
    check_output(call, result, expectation(call))


@pytest.mark.parametrize("sparsity", [0.05, 0.3, 0.5, 0.8, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("txt_len", [0, 77])
def test_every_sparsity_is_kept_to(build, tmp_path, sparsity, txt_len):
    call = random_call(5, reference.Video((17, 8, 8), txt_len, 16, sparsity), "rf_v2")
    check_output(call, run(build, tmp_path, call), expectation(call))


@pytest.mark.parametrize("latent, txt_len", [((4, 32, 32), 0), ((5, 29, 30), 77)])
def test_blocks_of_128(build, tmp_path, latent, txt_len):
    call = random_call(7, reference.Video(latent, txt_len, 128, 0.8), "rf_v2", (1, 1), 64)
    check_output(call, run(build, tmp_path, call), expectation(call))


@pytest.mark.parametrize("seed", range(4))
def test_ties_stay(build, tmp_path, seed):
    """Few distinct block means, so the smallest kept score is shared by many blocks; all of those stay."""
    video = reference.Video((16, 8, 8), 40, 16, 0.85)
    rng = np.random.default_rng(seed)
    tables = [coarse(rng, 3, 16), coarse(rng, 3, 16)]
    choice = rng.integers(0, 3, video.tokens // 16 + 1).repeat(16)[: video.tokens]
    inverse = np.argsort(reference.windowed(video))
    q, k = (table[choice][inverse][None, None] for table in tables)
    call = Call(video, "rf_v2", q, k, coarse(rng, 1, 1, video.tokens, 16))
    result = run(build, tmp_path, call)
    check_output(call, result, expectation(call))
    wanted = math.ceil((64 + 3) * (1 - 0.85))
    kept_outside_the_protected = result.arrays["mask"][0, 0, 4:64, 4:64].sum(axis=1)
    assert (kept_outside_the_protected > wanted).any(), "the case has no ties that matter"


@pytest.mark.parametrize("layout", ["BNSD", "BSND"])
@pytest.mark.parametrize("latent, txt_len", [((9, 8, 8), 5), ((7, 9, 10), 33)])
def test_bfloat16(build, tmp_path, layout, latent, txt_len):
    video = reference.Video(latent, txt_len, 16, 0.75)
    call = random_call(11, video, "rf_v2", (2, 2), 64, dtype=ml_dtypes.bfloat16, layout=layout)
    check_output(call, run(build, tmp_path, call), expectation(call))


def test_a_given_scale_changes_the_output_but_not_the_mask(build, tmp_path):
    call = random_call(3, reference.Video((9, 8, 8), 9, 16, 0.75), "rf_v2")
    plain = run(build, tmp_path, call)
    call.options["scale"] = 0.05
    scaled = run(build, tmp_path, call)
    check_output(call, scaled, expectation(call))
    np.testing.assert_array_equal(plain.arrays["mask"], scaled.arrays["mask"])
    assert np.abs(plain.o - scaled.o).max() > 0.01


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_for_any_number_of_threads(build, tmp_path, threads):
    call = random_call(17, reference.Video((9, 9, 8), 21, 16, 0.8), "rf_v2", (2, 2))
    one = run(build, tmp_path, call, {"AEROGEL_NUM_THREADS": "1"})
    more = run(build, tmp_path, call, {"AEROGEL_NUM_THREADS": str(threads)})
    assert one.o.tobytes() == more.o.tobytes()
    np.testing.assert_array_equal(one.arrays["mask"], more.arrays["mask"])
