"""The patterns that choose by content, written down slowly from docs/sparse_attention.md for calls of any kind: queries and keys of
different length and block size, several videos, text anywhere, causal. Nothing here is shared with the C++ code; float32 in a stated order
there is float32 in the same order here."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import rainfusion_reference as reference


@dataclass(frozen=True)
class Side:
    """Queries or keys: videos are (first token, (T, H, W)), all other tokens are text."""

    tokens: int
    videos: tuple
    block: int
    protect: bool = True

    @functools.cache
    def order(self):
        """Windowed videos one after the other, then the text."""
        parts = [start + reference.windowed(reference.Video(latent, 0, 16, 0.5)) for start, latent in self.videos]
        video = np.concatenate(parts)
        return np.concatenate([video, np.setdiff1d(np.arange(self.tokens), video)])

    @functools.cache
    def cells(self):
        """(first place, last place + 1, always kept) of each separately pooled block."""
        found, begin = [], 0
        for _, (frames, height, width) in self.videos:
            end = begin + frames * height * width
            sink = -(-height * width // self.block) if self.protect else 0
            found += [(i, min(i + self.block, end), n < sink) for n, i in enumerate(range(begin, end, self.block))]
            begin = end
        return found + [(i, min(i + self.block, self.tokens), True) for i in range(begin, self.tokens, self.block)]


def one_video(latent, txt_len, block, protect=True, txt_first=True):
    video = math.prod(latent)
    return Side(video + txt_len, ((txt_len if txt_first else 0, latent),), block, protect)


def _means(side, rows):
    rows = rows[side.order()]
    means = []
    for begin, end, _ in side.cells():
        total = np.add.accumulate(rows[begin:end].astype(np.float32), axis=0)[-1]  # one after the other
        means.append(total / np.float32(end - begin))
    return np.stack(means)


def block_mean_cells(q_side, k_side, q, k, sparsity):
    """[query cells, key cells] bool of rf_v2 and rf_v3 for one head; q and k are the call's rows."""
    q_means, k_means = _means(q_side, q), _means(k_side, k)
    products = np.zeros((len(q_means), len(k_means)), np.float32)
    for d in range(q.shape[1]):
        products += q_means[:, d, None] * k_means[None, :, d]
    kept = max(1, math.ceil(products.shape[1] * (1 - sparsity)))
    mask = products >= np.sort(products, axis=1)[:, ::-1][:, kept - 1, None]
    mask[[kept for *_, kept in q_side.cells()], :] = True
    mask[:, [kept for *_, kept in k_side.cells()]] = True
    return mask


def pairs_of_cells(q_side, k_side, mask):
    """[query tokens, key tokens] bool over the call's sequences: the pairs of the uniform blocks that kept cells reach into."""
    def reaches(side):
        matrix = np.zeros((len(side.cells()), -(-side.tokens // side.block)), int)
        for i, (begin, end, _) in enumerate(side.cells()):
            matrix[i, begin // side.block : (end - 1) // side.block + 1] = 1
        return matrix

    blocks = (reaches(q_side).T @ mask.astype(int) @ reaches(k_side)) > 0
    pairs = np.zeros((q_side.tokens, k_side.tokens), bool)
    inside = blocks.repeat(q_side.block, 0).repeat(k_side.block, 1)[: q_side.tokens, : k_side.tokens]
    pairs[np.ix_(q_side.order(), k_side.order())] = inside
    return pairs


def pairs_of_blocks(mask, block, q_len, k_len):
    """The same for uniform blocks of the sequence as it is; block is (query, key) tokens."""
    return mask.repeat(block[0], 0).repeat(block[1], 1)[:q_len, :k_len]


@dataclass(frozen=True)
class Ada:
    """Settings of ada_bsa; text is a range of tokens."""

    block: int
    sparsity: float = 0.0
    cdf: float = 1.0
    sink: bool = True
    recent: bool = True
    causal: bool = False
    text: tuple = (0, 0)

    def kept(self, tokens):
        blocks = range(0, tokens, self.block)
        return np.array([begin < self.text[1] and self.text[0] < min(begin + self.block, tokens) for begin in blocks])


STRIDE = 8


def _strided(rows, reverse):
    count = -(-len(rows) // STRIDE)
    padded = np.zeros((count * STRIDE, rows.shape[1]))
    padded[: len(rows)] = rows.astype(np.float64)
    cut = padded.reshape(count, STRIDE, -1)
    return (cut[:, ::-1] if reverse else cut).reshape(count, -1)


def antidiagonal_sums(q, k, scale, ada):
    """[query blocks, key blocks] sums of the strided softmax; the sums run in ascending order in float64."""
    offset = len(k) - len(q)
    products = (_strided(q, True) @ _strided(k, False).T).astype(np.float32).astype(np.float64)
    per_block = ada.block // STRIDE
    rows, columns = (-(-len(x) // ada.block) for x in (q, k))
    sums = np.zeros((rows, columns))
    for i, row in enumerate(products * (float(np.float32(scale)) / STRIDE)):
        seen = len(row)
        if ada.causal:
            seen = sum(STRIDE * j <= STRIDE * i + STRIDE - 1 + offset for j in range(len(row)))
        if seen == 0:
            continue
        weights = np.zeros(columns * per_block)
        weights[:seen] = np.exp(row[:seen] - row[:seen].max())
        parts = np.zeros(columns)
        for j in range(per_block):
            parts = parts + weights[j::per_block]
        sums[i // per_block] += parts / np.cumsum(parts)[-1]
    return sums


def antidiagonal_blocks(q, k, scale, ada):
    """[query blocks, key blocks] bool of ada_bsa for one head."""
    sums = antidiagonal_sums(q, k, scale, ada)
    rows, columns = sums.shape
    mask = np.zeros(sums.shape, bool)
    q_text, k_text = ada.kept(len(q)), ada.kept(len(k))
    for row in range(rows):
        last = min((row + 1) * ada.block, len(q)) - 1 + (len(k) - len(q)) if ada.causal else len(k) - 1
        if last < 0:
            continue
        diagonal = min(last, len(k) - 1) // ada.block
        scores = sums[row].copy()
        scores[-1] = 0
        ranked = np.sort(scores)[::-1]
        reached = np.cumsum(ranked)
        count = next(n for n, total in enumerate(reached, 1) if total >= ada.cdf * reached[-1])
        count = max(min(count, int((1 - ada.sparsity) * columns)), 1)
        mask[row] = (scores >= ranked[count - 1]) | k_text
        if q_text[row] or (ada.causal and row < 2):
            mask[row] = True
        mask[row, 0] |= ada.sink
        mask[row, diagonal] |= ada.recent
        mask[row, diagonal + 1 :] = False
    return mask


def causal_pairs(q_len, k_len):
    return np.arange(k_len)[None, :] <= np.arange(q_len)[:, None] + (k_len - q_len)
