"""RainFusion written down slowly, from docs/sparse_attention.md alone: every mask is first a mask of token
pairs or of separately pooled blocks, and only then cut into the blocks that are computed. Nothing here is
shared with the C++ code; what is float32 there, in a stated order, is float32 here in the same order."""

import math
from dataclasses import dataclass

import numpy as np

TYPES = ("spatial", "temporal", "textural")


@dataclass(frozen=True)
class Video:
    """One call's sizes: latent (T, H, W), text tokens, block size, sparsity, first-frame sink."""

    latent: tuple
    txt_len: int
    block: int
    sparsity: float
    protect: bool = True

    @property
    def video(self):
        return math.prod(self.latent)

    @property
    def tokens(self):
        return self.video + self.txt_len

    @property
    def blocks(self):
        return -(-self.tokens // self.block)

    @property
    def sink(self):
        """Tokens of the protected first frame."""
        return self.latent[1] * self.latent[2] if self.protect else 0


def _with_text(video, order):
    """Order of video tokens -> order of the call's tokens: text comes first there, last inside."""
    return np.concatenate([np.asarray(order, np.int64) + video.txt_len, np.arange(video.txt_len)])


def raster(video):
    return _with_text(video, np.arange(video.video))


def windowed(video):
    t, h, w = video.latent
    index = np.arange(video.video).reshape(t, h, w)
    h8, w8 = h // 8 * 8, w // 8 * 8

    def windows(frames):
        n = len(frames)
        cut = frames[:, :h8, :w8].reshape(n, h8 // 8, 8, w8 // 8, 8)
        return cut.transpose(0, 1, 3, 2, 4).reshape(n, h8 * w8)

    if h8 == h and w8 == w:
        return _with_text(video, windows(index).ravel())
    rest = index[1:]
    per_frame = [windows(rest), rest[:, h8:, :].reshape(t - 1, (h - h8) * w), rest[:, :h8, w8:].reshape(t - 1, h8 * (w - w8))]
    return _with_text(video, np.concatenate([index[0].ravel(), np.concatenate(per_frame, axis=1).ravel()]))


def frame_last(video):
    index = np.arange(video.video).reshape(video.latent)
    first = index[:1] if video.protect else index[:0]
    rest = index[len(first):]
    return _with_text(video, np.concatenate([first.ravel(), rest.transpose(1, 2, 0).ravel()]))


def dither_matrix(size=8):
    """Bayer's matrix of thresholds 0 .. size*size - 1, by doubling."""
    if size == 1:
        return np.zeros((1, 1), int)
    small = 4 * dither_matrix(size // 2)
    return np.block([[small, small + 2], [small + 3, small + 1]])


def on_checkerboard(video):
    """[T*H*W] bool: tokens whose place in the frame is on the checkerboard."""
    t, h, w = video.latent
    matrix = np.tile(dither_matrix(), (-(-h // 8), -(-w // 8)))[:h, :w]
    frame = matrix < math.ceil(64 * (1 - video.sparsity))
    return np.broadcast_to(frame, (t, h, w)).ravel()


def checkerboard(video):
    index = np.arange(video.video)
    first, rest = index[: video.sink], index[video.sink :]
    kept = on_checkerboard(video)[video.sink :]
    return _with_text(video, np.concatenate([first, rest[kept], rest[~kept]]))


def orders(video, kind):
    """(order of the queries, order of keys and values) of a head type."""
    if kind == "textural":
        return raster(video), checkerboard(video)
    order = {"spatial": raster, "temporal": frame_last, "block_mean": windowed, "dense": raster}[kind](video)
    return order, order


def token_mask(video, kind):
    """[tokens, tokens] bool over the call's sequence: which pairs a static mask wants."""
    t, h, w = video.latent
    wanted = np.ones((video.tokens, video.tokens), bool)
    frame, place = np.divmod(np.arange(video.video), h * w)
    if kind == "textural":
        inner = np.broadcast_to(on_checkerboard(video), (video.video, video.video)).copy()
    else:
        position = frame * h * w + place if kind == "spatial" else place * t + frame
        half_width = (1 - math.sqrt(video.sparsity)) * video.video
        inner = np.abs(position[:, None] - position[None, :]) <= half_width
    if video.protect:
        inner[frame == 0, :] = True
        inner[:, frame == 0] = True
    wanted[video.txt_len :, video.txt_len :] = inner
    return wanted


def to_blocks(video, pairs):
    """[tokens, tokens] bool in computed order -> [blocks, blocks]: kept when any pair inside is wanted."""
    size = video.blocks * video.block
    padded = np.zeros((size, size), bool)
    padded[: video.tokens, : video.tokens] = pairs
    return padded.reshape(video.blocks, video.block, video.blocks, video.block).any(axis=(1, 3))


def static_mask(video, kind):
    q_order, k_order = orders(video, kind)
    return to_blocks(video, token_mask(video, kind)[np.ix_(q_order, k_order)])


def block_bounds(video):
    """Token ranges (inside) that are pooled: video blocks, then text blocks."""
    p, n = video.block, video.video
    bounds = [(i, min(i + p, n)) for i in range(0, n, p)]
    return bounds + [(i, min(i + p, video.tokens)) for i in range(n, video.tokens, p)]


def pooled_means(video, rows):
    """Means of the reordered rows [tokens, d]: float32 sums in order, then one float32 division."""
    means = []
    for begin, end in block_bounds(video):
        total = np.zeros(rows.shape[1], np.float32)
        for row in rows[begin:end].astype(np.float32):
            total = total + row
        means.append(total / np.float32(end - begin))
    return np.stack(means)


def block_mean_mask(video, q, k, scale):
    """rf_v2's mask of one head from the call's q and k [tokens, d]; on the grid that is computed."""
    order = windowed(video)
    q_means, k_means = pooled_means(video, q[order]), pooled_means(video, k[order])
    products = np.zeros((len(q_means), len(k_means)), np.float32)
    for d in range(q.shape[1]):
        products = products + q_means[:, d, None] * k_means[None, :, d]
    logits = products.astype(np.float64) * scale
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    columns = scores.shape[1]
    kept = max(1, math.ceil(columns * (1 - video.sparsity)))
    threshold = np.sort(scores, axis=1)[:, ::-1][:, kept - 1]
    mask = scores >= threshold[:, None]
    text = -(-video.txt_len // video.block)
    sink = -(-video.sink // video.block)
    mask[columns - text :, :] = True
    mask[:, columns - text :] = True
    mask[:sink, :] = True
    mask[:, :sink] = True
    # The computed grid is uniform: a block is kept when any pooled pair that reaches into it is.
    reaches = np.zeros((columns, video.blocks), int)
    for i, (begin, end) in enumerate(block_bounds(video)):
        reaches[i, begin // video.block : (end - 1) // video.block + 1] = 1
    return (reaches.T @ mask.astype(int) @ reaches) > 0


def spread_sample(count_of, count):
    """`count` numbers out of range(count_of), one from each stretch, at golden-ratio places inside it."""
    count = min(count_of, count)
    inside = [(i * 2654435769 % 2**32) >> 16 for i in range(count)]
    return np.array([(((i << 16) + inside[i]) * count_of // count) >> 16 for i in range(count)])


def _sampled(video, q, k, scale):
    """(kind, weights [queries, keys] after the softmax, which of them its mask keeps, the sampled keys) for each of TYPES; q and k are the
    call's rows of one head."""
    order = raster(video)
    n = video.tokens
    queries = spread_sample(video.video - video.sink, min(max(n // 128, 16), 64)) + video.sink
    keys = spread_sample(n, min(max(n // 8, 256), 4096))
    queries, keys = order[queries], order[keys]
    logits = q[queries].astype(np.float64) @ k[keys].astype(np.float64).T * scale
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    for kind in TYPES:
        q_order, k_order = orders(video, kind)
        q_place, k_place = np.argsort(q_order), np.argsort(k_order)
        mask = static_mask(video, kind)
        yield kind, weights, mask[np.ix_(q_place[queries] // video.block, k_place[keys] // video.block)], keys


def recalls(video, q, k, scale):
    """Kept share of the sampled attention of one head under each of TYPES."""
    return {kind: float((weights * kept).sum(axis=1).mean()) for kind, weights, kept, _ in _sampled(video, q, k, scale)}


def errors(video, q, k, v, scale):
    """Error of the sampled outputs of one head under each of TYPES."""
    found = {}
    for kind, weights, kept, keys in _sampled(video, q, k, scale):
        left = weights * kept
        o = left @ v[keys] / np.maximum(left.sum(axis=1, keepdims=True), 1e-30)
        found[kind] = float(np.linalg.norm(o - weights @ v[keys]))
    return found


def pair_mask(video, mask, q_order, k_order):
    """Block mask -> [tokens, tokens] bool over the call's sequence."""
    pairs = np.zeros((video.tokens, video.tokens), bool)
    grid = mask.repeat(video.block, 0).repeat(video.block, 1)[: video.tokens, : video.tokens]
    pairs[np.ix_(q_order, k_order)] = grid
    return pairs


def attention(q, k, v, scale, pairs):
    """Exact masked attention in float64 and, per row, a bound of a float32 kernel's error.

    A score is a sum of d products, each rounded: its error is at most gamma = (d + 4) eps times the sum of
    the absolute products. It moves a weight by twice that, relatively; exp and the two sums of n terms add
    their own rounding. Values enter by their largest size."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    eps = float(np.finfo(np.float32).eps)
    logits = np.where(pairs, q @ k.T * scale, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    out = weights @ v / weights.sum(axis=1, keepdims=True)
    absolute = np.where(pairs, np.abs(q) @ np.abs(k).T * scale, 0).max(axis=1)
    relative = 4 * (q.shape[1] + 4) * eps * absolute + 2 * (pairs.sum(axis=1) + 16) * eps
    return out, relative * np.abs(v).max()


def density(video, mask):
    """Computed share of the token pairs; short blocks count by their tokens."""
    sizes = np.minimum(video.block, video.tokens - np.arange(video.blocks) * video.block)
    return float((mask * np.outer(sizes, sizes)).sum() / video.tokens**2)
