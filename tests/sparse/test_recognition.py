"""rf_v1 against the slow reference: the static masks of the three kinds of head, which of them ARM chooses
and with what recall, and the output."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import rainfusion_reference as reference
from sparse_calls import Call, check_output, dense_expectation, heads_of, random_call, run

LATENTS = [
    ((9, 8, 8), 16), ((16, 8, 8), 16), ((13, 7, 9), 16), ((6, 8, 11), 16), ((33, 4, 4), 16), ((40, 3, 5), 16),
    ((8, 16, 16), 64), ((5, 20, 21), 64), ((7, 11, 13), 24),
]
HEAD_DIM = 64
RECALL_ERROR = 1e-4  # float32 scores of at most a few dozen, against float64


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def head(rng, video, kind, strength=60.0):
    """q and k [tokens, d] of a head that truly is of this kind; "random" is of none."""
    t, h, w = video.latent
    frame, place = np.divmod(np.arange(video.video), h * w)
    if kind == "spatial":
        content = unit(rng, t, HEAD_DIM)[frame]
    elif kind == "temporal":
        content = unit(rng, h * w, HEAD_DIM)[place]
    elif kind == "textural":
        content = np.zeros((video.video, HEAD_DIM))
        content[reference.on_checkerboard(video)] = unit(rng, 1, HEAD_DIM)
    else:
        return rng.standard_normal((2, video.tokens, HEAD_DIM)).astype(np.float32)
    text = rng.standard_normal((video.txt_len, HEAD_DIM)) * 0.1
    queries = content if kind != "textural" else np.broadcast_to(content.max(axis=0) + content.min(axis=0), content.shape)
    q, k = (np.concatenate([text, x + 0.02 * rng.standard_normal(content.shape)]) for x in (queries, content))
    return np.stack([q * strength**0.5, k * strength**0.5]).astype(np.float32)


def call_of(seed, video, kinds, layout="BNSD", dtype=np.float32):
    """One batch with a head of each of the kinds."""
    rng = np.random.default_rng(seed)
    qk = np.stack([head(rng, video, kind) for kind in kinds])
    v = rng.standard_normal((1, len(kinds), video.tokens, HEAD_DIM))
    return Call(video, "rf_v1", qk[None, :, 0].astype(dtype), qk[None, :, 1].astype(dtype), v.astype(dtype), layout)


def expectation(call, types):
    def expected(b, h):
        kind = types[b * call.q.shape[1] + h]
        q_order, k_order = reference.orders(call.video, kind)
        full = np.ones((call.video.blocks, call.video.blocks), bool)
        return full if kind == "dense" else reference.static_mask(call.video, kind), q_order, k_order
    return expected


def check_recognition(call, result, min_recall=0.0):
    """Types and recalls against the reference. Returns the types."""
    for index, (b, h) in enumerate(heads_of(call)):
        shares = reference.recalls(call.video, call.q[b, h], call.k[b, h], call.scale)
        got = result.report["heads"][index]
        best = max(shares.values())
        assert abs(got["recall"] - best) < RECALL_ERROR
        chosen = got["type"]
        if chosen == "dense":
            assert best < min_recall + RECALL_ERROR
        else:
            assert best > min_recall - RECALL_ERROR
            assert shares[chosen] > best - RECALL_ERROR
            if sorted(shares.values())[-2] < best - RECALL_ERROR:
                assert chosen == max(shares, key=shares.get)
    return result.types


def cases():
    rest = itertools.cycle(itertools.product([0.5, 0.8, 0.7, 0.9], ["BNSD", "BSND"], [True, False, True]))
    for number, ((latent, block), txt_len) in enumerate(itertools.product(LATENTS, [0, 1, 77])):
        sparsity, layout, protect = next(rest)
        yield pytest.param(reference.Video(latent, txt_len, block, sparsity, protect), layout, number,
                           id=f"{'x'.join(map(str, latent))}-t{txt_len}-p{block}-s{sparsity}-{layout}-{protect}")


@pytest.mark.parametrize("video, layout, number", list(cases()))
def test_agrees_with_the_reference(build, tmp_path, video, layout, number):
    call = call_of(number, video, ["spatial", "temporal", "textural", "random"], layout)
    result = run(build, tmp_path, call)
    assert result.report["dense_because"] == ""
    check_output(call, result, expectation(call, check_recognition(call, result)))


@pytest.mark.parametrize("protect", [True, False])
@pytest.mark.parametrize("txt_len", [0, 50])
@pytest.mark.parametrize("latent", [(17, 8, 8), (16, 8, 12), (24, 9, 7)])
def test_heads_are_recognised_as_what_they_are(build, tmp_path, latent, txt_len, protect):
    kinds = ["textural", "spatial", "temporal", "spatial", "temporal", "textural"]
    call = call_of(1, reference.Video(latent, txt_len, 16, 0.8, protect), kinds)
    result = run(build, tmp_path, call)
    assert result.types == kinds
    assert min(h["recall"] for h in result.report["heads"]) > 0.8


def test_random_heads_have_the_recall_of_their_density(build, tmp_path):
    video = reference.Video((16, 8, 8), 0, 16, 0.8)
    call = call_of(2, video, ["random"] * 4)
    call.q *= 0.1
    for got in run(build, tmp_path, call).report["heads"]:
        assert abs(got["recall"] - got["density"]) < 0.12


@pytest.mark.parametrize("layout", ["BNSD", "BSND"])
def test_heads_under_min_recall_stay_dense(build, tmp_path, layout):
    call = call_of(3, reference.Video((17, 8, 8), 20, 16, 0.8), ["random", "temporal", "random", "spatial"], layout)
    call.options["min_recall"] = 0.7
    result = run(build, tmp_path, call)
    assert result.types == ["dense", "temporal", "dense", "spatial"]
    assert [head["density"] == 1 for head in result.report["heads"]] == [True, False, True, False]
    check_output(call, result, expectation(call, check_recognition(call, result, 0.7)))


def test_all_heads_under_min_recall(build, tmp_path):
    call = call_of(4, reference.Video((17, 8, 8), 20, 16, 0.8), ["random", "random"])
    call.options["min_recall"] = 1.0
    result = run(build, tmp_path, call)
    assert result.report["dense_because"] == "every head is under min_recall"
    assert result.types == ["dense", "dense"] and not result.arrays
    check_output(call, result, dense_expectation(call))


def test_each_batch_item_chooses_for_itself(build, tmp_path):
    video = reference.Video((17, 8, 8), 7, 16, 0.8)
    first, second = call_of(5, video, ["spatial", "textural"]), call_of(6, video, ["temporal", "spatial"])
    call = Call(video, "rf_v1", *(np.concatenate([getattr(c, name) for c in (first, second)]) for name in "qkv"))
    result = run(build, tmp_path, call)
    assert result.types == ["spatial", "textural", "temporal", "spatial"]
    check_output(call, result, expectation(call, result.types))


def test_bfloat16(build, tmp_path):
    video = reference.Video((13, 7, 9), 12, 16, 0.8)
    call = call_of(7, video, ["spatial", "temporal", "textural"], "BSND", ml_dtypes.bfloat16)
    result = run(build, tmp_path, call)
    check_output(call, result, expectation(call, check_recognition(call, result)))


@pytest.mark.parametrize("kind", ["rf_v1", "rf_v2"])
@pytest.mark.parametrize("video, because", [
    (reference.Video((31, 4, 4), 100, 16, 0.8), "fewer than 32 video blocks"),
    (reference.Video((32, 4, 4), 0, 16, 0.0), "sparsity 0"),
    (reference.Video((1, 24, 24), 5, 16, 0.8), "every block is protected"),
])
def test_calls_that_stay_dense_say_why(build, tmp_path, kind, video, because):
    call = random_call(8, video, kind)
    result = run(build, tmp_path, call)
    assert result.report["dense_because"] == because
    assert set(result.types) == {"dense"} and result.report["density"] == 1
    check_output(call, result, dense_expectation(call))


def test_sparse_type_none_is_dense(build, tmp_path):
    call = random_call(9, reference.Video((9, 8, 8), 3, 16, 0.8), "none")
    result = run(build, tmp_path, call)
    assert result.report["dense_because"] == "sparse type none"
    check_output(call, result, dense_expectation(call))


def test_the_same_bits_for_any_number_of_threads(build, tmp_path):
    call = call_of(10, reference.Video((13, 7, 9), 12, 16, 0.8), ["spatial", "random", "textural"])
    one, two = (run(build, tmp_path, call, {"AEROGEL_NUM_THREADS": n}) for n in "13")
    assert one.o.tobytes() == two.o.tobytes() and one.report == two.report
