"""aerogel.sparse_attention against the slow references: rf_v2 and rf_v3 for every kind of call, ada_bsa, and masks that are given. Masks bit
for bit, outputs within bounds computed from the sizes and the data."""

import itertools

import numpy as np
import pattern_reference as reference
import pytest
import python_calls as calls
import rainfusion_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from pattern_reference import Ada, Side, one_video

aerogel = pytest.importorskip("aerogel")


def check_block_mean(arrays, sides, sparsity, options):
    q_side, k_side = sides
    o, mask, report = arrays.call(sparsity=sparsity, protect_first_frame=q_side.protect, **options)
    assert not report["dense_because"]
    for index, q, k, _ in arrays.heads():
        np.testing.assert_array_equal(mask[index], reference.block_mean_cells(q_side, k_side, q, k, sparsity))
    pairs = {index: reference.pairs_of_cells(q_side, k_side, mask[index]) for index, *_ in arrays.heads()}
    calls.check_output(arrays, o, pairs.get)
    np.testing.assert_allclose([head["density"] for head in report["heads"]], [p.mean() for p in pairs.values()], atol=1e-12)


def video_options(latent, txt_len, txt_first, block):
    return {"latent_shape_q": latent, "txt_len": txt_len, "txt_first": txt_first, "block_size": block}


CASES = [
    # latent, text, text first, layout, (batch, heads, kv heads), head_dim, sparsity, first frame protected
    ((9, 8, 8), 0, True, "BNSD", (1, 2, 2), 32, 0.5, True),
    ((9, 8, 8), 21, False, "BNSD", (2, 4, 2), 32, 0.7, True),
    ((7, 10, 9), 5, False, "BSND", (1, 3, 1), 40, 0.8, True),
    ((5, 11, 13), 33, True, "BSND", (2, 2, 1), 64, 0.75, False),
    ((6, 8, 11), 17, False, "TND", (1, 4, 2), 32, 0.9, True),
    ((33, 4, 4), 0, True, "TND", (1, 1, 1), 96, 0.3, True),
    ((3, 17, 12), 1, False, "BNSD", (1, 6, 3), 128, 0.95, False),
]


@pytest.mark.parametrize("kind", ["rf_v2", "rf_v3"])
@pytest.mark.parametrize("latent, txt_len, txt_first, layout, sizes, head_dim, sparsity, protect", CASES)
def test_block_means(*, kind, latent, txt_len, txt_first, layout, sizes, head_dim, sparsity, protect):
    side = one_video(latent, txt_len, 16, protect, txt_first)
    batch, heads, kv_heads = sizes
    arrays = calls.make(np.random.default_rng(len(layout) + txt_len), q_len=side.tokens, heads=(batch, heads), kv_heads=kv_heads,
                        head_dim=head_dim, layout=layout)
    check_block_mean(arrays, (side, side), sparsity, {"sparse_type": kind, **video_options(latent, txt_len, txt_first, 16)})


@pytest.mark.parametrize("block, block_kv", [(16, 48), (32, 16), (24, 40), (16, 130)])
@pytest.mark.parametrize("layout", ["BNSD", "BSND"])
def test_rf_v3_has_blocks_of_its_own_for_keys(block, block_kv, layout):
    latent = (15, 9, 8)
    sides = [one_video(latent, 21, size) for size in (block, block_kv)]
    arrays = calls.make(np.random.default_rng(3), q_len=sides[0].tokens, heads=(1, 4), kv_heads=2, layout=layout)
    check_block_mean(arrays, sides, 0.6, {"sparse_type": "rf_v3", "block_size_kv": block_kv, **video_options(latent, 21, True, block)})


@pytest.mark.parametrize("kind", ["rf_v2", "rf_v3"])
def test_queries_and_keys_may_be_different_videos(kind):
    latents, txt_len = [(9, 8, 8), (5, 9, 11)], 13
    sides = [one_video(latent, txt_len, 16) for latent in latents]
    arrays = calls.make(np.random.default_rng(4), q_len=sides[0].tokens, k_len=sides[1].tokens)
    options = {"sparse_type": kind, **video_options(latents[0], txt_len, True, 16), "latent_shape_k": latents[1]}
    check_block_mean(arrays, sides, 0.7, options)


@pytest.mark.parametrize("kind", ["rf_v2", "rf_v3"])
@pytest.mark.parametrize("layout", ["TND", "BNSD"])
@pytest.mark.parametrize("tokens, videos", [
    (700, ((0, (5, 8, 8)), (320, (3, 10, 9)))),
    (821, ((7, (3, 9, 8)), (240, (4, 8, 11)), (602, (1, 12, 13)))),
    (600, ((41, (8, 8, 8)),)),
])
def test_several_videos_in_one_sequence(kind, layout, tokens, videos):
    side = Side(tokens, videos, 16)
    arrays = calls.make(np.random.default_rng(5), q_len=tokens, heads=(1, 2), kv_heads=1, layout=layout)
    names = itertools.cycle(["latent_shape", "latent_grid"])
    spans = [{"start": start, next(names): list(latent), "role": "video"} for start, latent in videos]
    check_block_mean(arrays, (side, side), 0.7, {"sparse_type": kind, "video_spans": spans, "block_size": 16})


def test_rf_v1_takes_text_behind_and_one_span():
    """The same call told in three ways."""
    rng = np.random.default_rng(6)
    arrays = calls.make(rng, q_len=9 * 64 + 21, heads=(1, 4), kv_heads=2)
    options = {"sparse_type": "rf_v1", "sparsity": 0.7, "block_size": 16}
    first, first_mask, report = arrays.call(latent_shape_q=(9, 8, 8), txt_len=21, **options)
    spanned, spanned_mask, _ = arrays.call(video_spans=[{"start": 21, "latent_shape": (9, 8, 8)}], **options)
    assert np.array_equal(first, spanned) and np.array_equal(first_mask, spanned_mask)
    assert all(head["recall"] == max(head["recalls"].values()) for head in report["heads"])
    turned = calls.Arrays(*(np.roll(x, -21, axis=2) for x in (arrays.q, arrays.k, arrays.v)))
    behind, behind_mask, _ = turned.call(latent_shape_q=(9, 8, 8), txt_len=21, txt_first=False, **options)
    assert np.array_equal(np.roll(behind, 21, axis=2), first) and np.array_equal(behind_mask, first_mask)


def check_ada(arrays, ada, options):
    o, mask, report = arrays.call(sparse_type="ada_bsa", block_size=ada.block, sparsity=ada.sparsity, cdf_threshold=ada.cdf, keep_sink=ada.sink,
                                  keep_recent=ada.recent, is_causal=ada.causal, **options)
    assert not report["dense_because"]
    q_len, k_len = arrays.q.shape[2], arrays.k.shape[2]
    seen = reference.causal_pairs(q_len, k_len) if ada.causal else np.ones((q_len, k_len), bool)
    for index, q, k, _ in arrays.heads():
        np.testing.assert_array_equal(mask[index], reference.antidiagonal_blocks(q, k, arrays.scale, ada))
    calls.check_output(arrays, o, lambda index: reference.pairs_of_blocks(mask[index], (ada.block, ada.block), q_len, k_len) & seen)


@pytest.mark.parametrize("ada, q_len, k_len", [
    (Ada(16, 0.5), 256, 256), (Ada(16, 0.0, 0.9), 300, 300), (Ada(32, 0.7, 0.95), 515, 401), (Ada(16, 0.8, 0.8, sink=False), 259, 130),
    (Ada(16, 0.8, 0.8, recent=False), 259, 130), (Ada(16, 0.9, 0.5, sink=False, recent=False), 301, 303), (Ada(128, 0.5, 0.9), 700, 700),
    (Ada(16, 0.5, causal=True), 256, 256), (Ada(24, 0.0, 0.7, causal=True), 333, 333), (Ada(16, 0.8, 0.9, causal=True), 129, 301),
    (Ada(16, 0.8, 0.9, causal=True), 130, 47), (Ada(32, 0.9, 0.4, sink=False, recent=False, causal=True), 300, 300),
    (Ada(16, 0.9, 0.4, text=(0, 21)), 300, 300), (Ada(16, 0.9, 0.4, text=(279, 300)), 300, 300), (Ada(16, 0.5), 5, 3),
])
@pytest.mark.parametrize("layout", ["BNSD", "TND"])
def test_antidiagonal_scores(ada, q_len, k_len, layout):
    arrays = calls.make(np.random.default_rng(q_len), q_len=q_len, k_len=k_len, heads=(1 if layout == "TND" else 2, 4), kv_heads=2, layout=layout)
    text = {"txt_len": ada.text[1] - ada.text[0], "txt_first": ada.text[0] == 0} if ada.text != (0, 0) else {}
    check_ada(arrays, ada, text)


@pytest.mark.parametrize("options, latent", [({"sparse_type": "ada_bsa", "layout": "TND"}, None), ({"sparse_type": "rf_v2"}, (9, 8, 8)),
                                             ({"sparse_type": "rf_v3", "precision": "int8"}, (9, 8, 8))])
def test_centroids_stand_for_what_is_skipped(options, latent):
    """As dense attention over keys and values that are their block's mean wherever a row of query blocks skips it."""
    options = dict(options)
    tokens, int8 = 576 if latent else 301, options.get("precision") == "int8"
    arrays = calls.make(np.random.default_rng(5), q_len=tokens, heads=(1, 4), kv_heads=2, layout=options.pop("layout", "BNSD"),
                        values=lambda rng, *shape: rng.standard_normal(shape, np.float32))
    options |= {"sparsity": 0.7, "block_size": 16, **({"latent_shape_q": latent} if latent else {})}
    o, mask, report = arrays.call(**options, centroids=True)
    plain, same_mask, _ = arrays.call(**options)
    assert np.array_equal(mask, same_mask) and not report["dense_because"] and report["density"] < 0.6
    order = one_video(latent, 0, 16).order() if latent else np.arange(tokens)  # of whole blocks
    for index, q, k, v in arrays.heads():
        q, k, v = q[order], k[order], v[order]
        wanted = np.empty_like(q)
        for row in range(0, tokens, 16):
            keys, values = k.copy(), v.copy()
            for column in np.flatnonzero(~mask[index][row // 16]):
                block = slice(16 * column, 16 * column + 16)
                keys[block], values[block] = k[block].mean(0), v[block].mean(0)
            scores = q[row : row + 16] @ keys.T * arrays.scale
            weights = np.exp(scores - scores.max(1, keepdims=True))
            wanted[row : row + 16] = weights @ values / weights.sum(1, keepdims=True)
        assert np.abs(o[index][order] - wanted).max() < (0.05 if int8 else 1e-5)
        assert np.abs(plain[index][order] - wanted).max() > 0.1


def test_masks_chosen_by_the_error_of_the_output():
    """Values that are alike within a frame make errors of what recall cannot see: heads get another mask, the one whose error is least. Values
    that are not finite leave it to the recall."""
    latent, rng = (9, 8, 8), np.random.default_rng(8)
    video = rainfusion_reference.Video(latent, 0, 16, 0.7)
    arrays = calls.make(rng, q_len=576, heads=(1, 8), kv_heads=4, values=lambda rng, *shape: rng.standard_normal(shape, np.float32))
    arrays.v[:] = 0.2 * arrays.v + np.arange(576).reshape(9, 64).mean(1).repeat(64)[None, None, :, None] / 100
    options = {"sparse_type": "rf_v1", "sparsity": 0.7, "block_size": 16, "latent_shape_q": latent}
    by_recall, by_error = (arrays.call(**options, **more)[2]["heads"] for more in ({}, {"by_error": True}))
    other = 0
    for (index, q, k, v), one, two in zip(arrays.heads(), by_recall, by_error):
        errors = rainfusion_reference.errors(video, q, k, v, arrays.scale)
        assert two["type"] == min(errors, key=errors.get) and one["type"] == max(one["recalls"], key=one["recalls"].get)
        assert one["recalls"] == two["recalls"] and two["recall"] == two["recalls"][two["type"]]
        other += one["type"] != two["type"]
    assert other > 0
    strict = arrays.call(**options, by_error=True, min_recall=by_error[0]["recall"] + 1e-9)[2]["heads"]
    assert [head["type"] == "dense" for head in strict] == [head["recall"] <= by_error[0]["recall"] for head in by_error]
    arrays.v[...] = np.nan
    assert [head["type"] for head in arrays.call(**options, by_error=True)[2]["heads"]] == [head["type"] for head in by_recall]


def test_antidiagonals_see_single_strong_pairs():
    """A block with one large product stands out when that lies on the antidiagonal of its 8x8 square, and is not seen when it does not."""
    q, k = np.zeros((2, 256, 32), np.float32)
    for n, (i, j) in enumerate([(37, 170), (100, 51), (200, 232)]):
        q[i, n] = k[j, n] = 40
    arrays = calls.Arrays(q[None, None], k[None, None], np.ones((1, 1, 256, 32), np.float32))
    _, mask, _ = arrays.call(sparse_type="ada_bsa", block_size=16, sparsity=0.9, cdf_threshold=0.5, keep_sink=False, keep_recent=False)
    assert mask[0, 0, 37 // 16, 170 // 16] and mask[0, 0, 100 // 16, 51 // 16]
    assert mask[0, 0, 2].sum() == 1 and mask[0, 0, 6].sum() == 1
    assert mask[0, 0, 200 // 16].sum() == 15, "all blocks but the last are equal"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["mask", "attn_mask"])
def test_a_given_mask(name, causal):
    rng = np.random.default_rng(8)
    arrays = calls.make(rng, q_len=150, k_len=203, heads=(2, 4), kv_heads=2, layout="BSND")
    mask = rng.random((2, 4, 10, 7)) < 0.4
    mask[0, 1, 3] = False
    options = {name: mask, "block_size": 16, "block_size_kv": 32, "is_causal": causal}
    o, returned, report = arrays.call(**options)
    assert np.array_equal(returned, mask) and {head["type"] for head in report["heads"]} == {"given"}
    seen = reference.causal_pairs(150, 203) if causal else np.ones((150, 203), bool)
    calls.check_output(arrays, o, lambda index: reference.pairs_of_blocks(mask[index], (16, 32), 150, 203) & seen)
    whole, _, _ = arrays.call(**{**options, name: mask[0, 0].astype(np.int8)})
    shared, _, _ = arrays.call(**{**options, name: np.broadcast_to(mask[:1, :1], mask.shape)})
    assert np.array_equal(whole, shared)


def test_dense_causal_attention():
    for q_len, k_len in [(70, 70), (33, 150), (90, 40)]:
        arrays = calls.make(np.random.default_rng(9), q_len=q_len, k_len=k_len, heads=(2, 4), kv_heads=1)
        o, mask, report = arrays.call(is_causal=True)
        assert report["dense_because"] == "sparse type none" and mask.all()
        calls.check_output(arrays, o, lambda _: reference.causal_pairs(q_len, k_len))


@pytest.mark.parametrize("kind, block_kv", [("rf_v2", None), ("rf_v3", None), ("rf_v3", 64)])
def test_a_cached_mask_is_reused(kind, block_kv):
    latent, txt_len = (9, 9, 8), 21
    sides = [one_video(latent, txt_len, size) for size in (16, block_kv or 16)]
    options = {"sparse_type": kind, "sparsity": 0.7, "block_size_kv": block_kv, **video_options(latent, txt_len, True, 16)}
    first = calls.make(np.random.default_rng(10), q_len=sides[0].tokens, heads=(1, 4), kv_heads=2)
    later = calls.make(np.random.default_rng(11), q_len=sides[0].tokens, heads=(1, 4), kv_heads=2)
    o, mask, _ = first.call(**options)
    again, same, _ = first.call(cached_mask=mask, **options)
    assert np.array_equal(o, again) and np.array_equal(mask, same)
    o, same, report = later.call(cached_mask=mask.astype(np.int8), **options)
    assert np.array_equal(mask, same) and not np.array_equal(mask, later.call(**options)[1])
    calls.check_output(later, o, lambda index: reference.pairs_of_cells(*sides, mask[index]))


def test_a_finer_cached_mask_is_merged_by_any():
    latent, txt_len = (9, 9, 8), 21
    fine, q_side, k_side = (one_video(latent, txt_len, size) for size in (16, 16, 48))
    arrays = calls.make(np.random.default_rng(12), q_len=fine.tokens)
    mask = np.random.default_rng(13).random((1, 2, len(fine.cells()), len(fine.cells()))) < 0.1
    options = {"sparse_type": "rf_v3", "sparsity": 0.7, "block_size_kv": 48, **video_options(latent, txt_len, True, 16)}
    o, merged, _ = arrays.call(cached_mask=mask, **options)
    parent = [next(i for i, (begin, end, _) in enumerate(k_side.cells()) if begin <= cell[0] < end) for cell in fine.cells()]
    wanted = np.zeros(merged.shape, bool)
    for column, of in enumerate(parent):
        wanted[..., of] |= mask[..., column]
    np.testing.assert_array_equal(merged, wanted)
    calls.check_output(arrays, o, lambda index: reference.pairs_of_cells(q_side, k_side, wanted[index]))


VIDEO = {"latent_shape_q": (5, 9, 8), "txt_len": 9, "block_size": 16}


@pytest.mark.parametrize("options", [
    {"sparse_type": "rf_v1", **VIDEO}, {"sparse_type": "rf_v2", **VIDEO}, {"sparse_type": "rf_v3", "block_size_kv": 64, **VIDEO},
    {"sparse_type": "ada_bsa"}, {"mask": np.ones((3, 6), bool), "block_size_kv": 64},
])
@pytest.mark.parametrize("layout", ["BNSD", "BSND", "TND"])
def test_sparsity_0_equals_dense(options, layout):
    arrays = calls.make(np.random.default_rng(14), q_len=369, heads=(1, 4), kv_heads=2, layout=layout)
    dense = arrays.back(aerogel.attention(*(arrays.laid_out(x) for x in (arrays.q, arrays.k, arrays.v)), input_layout=layout))
    o, mask, report = arrays.call(sparsity=0.0, **options)
    assert mask.all() and report["density"] == 1
    assert np.array_equal(o, dense)


latents = st.tuples(st.integers(1, 7), st.integers(1, 19), st.integers(1, 19))
layouts = st.sampled_from(["BNSD", "BSND", "TND"])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(videos=st.lists(st.tuples(st.integers(0, 40), latents), min_size=1, max_size=3), behind=st.integers(0, 40), layout=layouts,
       block=st.integers(16, 32), block_kv=st.integers(16, 80), kv_heads=st.sampled_from([1, 2]), sparsity=st.floats(0.01, 0.99),
       protect=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_any_sequence_of_videos(*, videos, behind, layout, block, block_kv, kv_heads, sparsity, protect, seed):
    placed, tokens = [], 0
    for gap, latent in videos:
        placed.append((tokens + gap, latent))
        tokens += gap + int(np.prod(latent))
    q_side, k_side = (Side(tokens + behind, tuple(placed), size, protect) for size in (block, block_kv))
    arrays = calls.make(np.random.default_rng(seed), q_len=q_side.tokens, heads=(1, 2), kv_heads=kv_heads, head_dim=32, layout=layout)
    spans = [{"start": start, "latent_shape": latent} for start, latent in placed]
    options = {"sparse_type": "rf_v3", "video_spans": spans, "block_size": block, "block_size_kv": block_kv}
    few = sum(-(-int(np.prod(latent)) // block) for _, latent in placed) < 32
    if few or any(all(kept for *_, kept in side.cells()) for side in (q_side, k_side)):
        o, mask, report = arrays.call(sparsity=sparsity, protect_first_frame=protect, **options)
        assert report["dense_because"] and mask.all()
        calls.check_output(arrays, o, lambda _: np.ones((q_side.tokens, k_side.tokens), bool))
    else:
        check_block_mean(arrays, (q_side, k_side), sparsity, options)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(q_len=st.integers(1, 300), k_len=st.integers(1, 300), block=st.sampled_from([16, 24, 40, 128]), layout=layouts, causal=st.booleans(),
       sink=st.booleans(), recent=st.booleans(), sparsity=st.floats(0.01, 0.99), cdf=st.floats(0.05, 1.0), seed=st.integers(0, 2**32 - 1))
def test_any_lengths_by_antidiagonals(*, q_len, k_len, block, layout, causal, sink, recent, sparsity, cdf, seed):
    arrays = calls.make(np.random.default_rng(seed), q_len=q_len, k_len=k_len, heads=(1, 2), kv_heads=1, layout=layout)
    check_ada(arrays, Ada(block, sparsity, cdf, sink, recent, causal), {})


@settings(max_examples=30, deadline=None, derandomize=True)
@given(latent=latents, txt_len=st.integers(0, 60), txt_first=st.booleans(), block=st.sampled_from([16, 17, 64, 128]),
       kind=st.sampled_from(["rf_v1", "rf_v2", "rf_v3"]), sparsity=st.floats(0, 0.99), seed=st.integers(0, 2**32 - 1))
def test_rows_come_back_to_where_they_were(*, latent, txt_len, txt_first, block, kind, sparsity, seed):
    """Each query is its own best key by far, so each output is the value of its token, for every order and inverse. A band, the windows'
    diagonal and ties keep that key; textural heads need not, so they are left out by min_recall."""
    tokens = int(np.prod(latent)) + txt_len
    rng = np.random.default_rng(seed)
    content = rng.standard_normal((1, 1, tokens, 256))
    content = (content / np.linalg.norm(content, axis=-1, keepdims=True) * 100).astype(np.float32)
    arrays = calls.Arrays(content, content, np.arange(tokens, dtype=np.float32)[None, None, :, None].repeat(256, 3))
    o, mask, report = arrays.call(sparse_type=kind, sparsity=sparsity, min_recall=0.999 * (kind == "rf_v1"), **video_options(latent, txt_len, txt_first, block))
    if kind == "rf_v1":
        assert report["heads"][0]["type"] in ("dense", "spatial", "temporal")
    kept = np.ones(tokens, bool)
    if kind != "rf_v1" and not report["dense_because"]:
        side = one_video(latent, txt_len, block, True, txt_first)
        kept = np.diag(reference.pairs_of_cells(side, side, mask[0, 0]))
        assert kept.mean() > 0.5
    np.testing.assert_allclose(o[0, 0, kept, 0], np.arange(tokens)[kept], atol=0.01)
