// bfloat16 attention on one tile of queries, apart from its two products, which `Products` has (AMX tiles or
// vdpbf16ps): the packed form of keys and values, edges of segments, and the softmax. That is as in
// attention_tiles.h; its weights become bfloat16. Included by sources built for AVX-512 BF16, so everything
// is local to the including file.
#pragma once

#include "kernels/cpu/attention_tiling.h"
#include "kernels/cpu/avx512/vector.h"
#include "kernels/cpu/centroids.h"

namespace aerogel {
namespace {

constexpr std::int64_t kDepth = 32;  ///< bfloat16 numbers of a row of a tile: the products of one instruction
constexpr std::int64_t kHalf = 16;   ///< rows or columns of a tile
constexpr std::int64_t kBlock = 2 * kHalf;  ///< rows, and columns, of a block of four tiles
constexpr std::int64_t kTileSize = kHalf * kDepth;
constexpr std::int64_t kMostPanels = kTileKeys / kBlock;
/// One cache line more than what a row holds, so that rows spread over the cache's sets.
constexpr std::int64_t kScoreStride = kTileKeys + 16, kWeightStride = kTileKeys + 32;

/// Up to 32 rows of one task, or all of them. Rows are padded to whole tiles, head_dim (`d`) to whole blocks.
struct Bf16Tile {
    /// Rows first .. first + 31, as far as there are any. They share the memory of scores and weights.
    Bf16Tile block(std::int64_t first) const {
        Bf16Tile some = *this;
        some.rows = smaller(kBlock, rows - first);
        some.seen += first;
        some.q += first * d;
        some.o += first * d;
        some.sums += first * kHalf;
        some.largest += first;
        return some;
    }

    std::int64_t rows, d, head_dim;
    const Bf16Bits* k;          ///< packed: [32 keys][16 of them][32 of d], each a tile of pairs along d
    const Bf16Bits* v;          ///< packed: [32 keys][16 of d], each a tile of pairs of keys
    std::int64_t seen;          ///< row r may see keys before seen + r only
    Bf16Bits* q;                ///< [rows][d]
    Bf16Bits* weights;          ///< [kBlock][kWeightStride]
    Bf16Bits* edges;            ///< [kMostPanels][32 keys x d]: for ValuePanels
    float* scores;              ///< [kBlock][kScoreStride], two of them where products overlap
    float* o;                   ///< [rows][d]
    float* sums;                ///< [rows][kHalf]: one partial sum of weights per lane
    float* largest;             ///< [rows]: largest score so far, times `factor`
    float factor;               ///< scale * log2(e)
    std::int64_t centroid = 0;  ///< the first key that is a centroid
    const float* centroid_bias = nullptr;  ///< added to the scores of centroids; null: there are none
};

/// -inf for the columns first..last-1.
inline void hide_columns(const Bf16Tile& tile, std::int64_t first, std::int64_t last) {
    for (std::int64_t row = 0; row < tile.rows; ++row)
        for (std::int64_t i = first; i < last; ++i) tile.scores[row * kScoreStride + i] = -__builtin_inff();
}

/// Where the keys of one portion lie, 32 at a time, and where their scores go.
struct ScorePanels {
    ScorePanels(const Bf16Tile& tile, const KeyTile& keys) {
        for (int s = 0; s < keys.count; ++s) {
            const Segment& segment = keys.segments[s];
            const std::int64_t start = round_down(segment.first, kBlock);
            for (std::int64_t key = start; key < segment.last; key += kBlock) {
                at[count] = tile.k + key * tile.d;
                column[count++] = segment.column + key - start;
            }
        }
    }

    template <typename Products>
    void multiply(const Bf16Tile& tile, std::int64_t panel) const {
        Products::score_panel(tile, at[panel], tile.scores + column[panel]);
    }

    const Bf16Bits* at[kMostPanels];
    std::int64_t column[kMostPanels];
    std::int64_t count = 0;
};

/// What scores become besides products: biases of centroids, and -inf for keys that are not seen.
inline void finish_scores(const Bf16Tile& tile, const KeyTile& keys) {
    for (int s = 0; s < keys.count; ++s) {
        const Segment& segment = keys.segments[s];
        const std::int64_t start = round_down(segment.first, kBlock), stop = round_up(segment.last, kBlock);
        const std::int64_t to_column = segment.column - start;
        if (tile.centroid_bias != nullptr && segment.first >= tile.centroid)
            add_centroid_bias<kScoreStride>(tile.scores + segment.column, tile.rows,
                                            tile.centroid_bias + segment.first - tile.centroid,
                                            segment.last - segment.first);
        hide_columns(tile, segment.column, segment.first + to_column);
        hide_columns(tile, segment.last + to_column, stop + to_column);
    }
    hide_later_keys<kScoreStride, kBlock>({tile.scores, tile.rows, tile.seen}, keys);
}

template <typename Products>
[[gnu::noinline]] void score_tile(const Bf16Tile& tile, const KeyTile& keys, const ScorePanels& panels) {
    for (std::int64_t p = 0; p < panels.count; ++p) panels.multiply<Products>(tile, p);
    finish_scores(tile, keys);
}

/// Scores -> weights 2^(factor * score - largest) of the rows first..last-1, with the running maximum and
/// sums; o times what they lose.
[[gnu::noinline]] inline void softmax_rows(const Bf16Tile& tile, std::int64_t columns, std::int64_t first,
                                           std::int64_t last) {
    using V = Avx512::V;
    const V factor = Avx512::set1(tile.factor);
    for (std::int64_t row = first; row < last; ++row) {
        const float* scores = tile.scores + row * kScoreStride;
        Bf16Bits* weights = tile.weights + row * kWeightStride;
        V tops[2] = {Avx512::set1(-__builtin_inff()), Avx512::set1(-__builtin_inff())};
        for (std::int64_t i = 0; i < columns; i += kBlock) {
            tops[0] = Avx512::larger(Avx512::load(scores + i), tops[0]);
            tops[1] = Avx512::larger(Avx512::load(scores + i + kHalf), tops[1]);
        }
        const float before = tile.largest[row];
        const float top = Avx512::reduce_larger(Avx512::larger(tops[0], tops[1])) * tile.factor;
        const float now = top > before ? top : before;
        const V largest = Avx512::set1(now);
        V sums[2] = {Avx512::zero(), Avx512::zero()};
        for (std::int64_t i = 0; i < columns; i += kBlock) {
            V weight[2];
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) {
                weight[j] =
                    Avx512::exp2(Avx512::fmsub(Avx512::load(scores + i + j * kHalf), factor, largest));
                sums[j] = Avx512::add(sums[j], weight[j]);
            }
            const __m512bh both = _mm512_cvtne2ps_pbh(weight[1], weight[0]);
            _mm512_storeu_si512(weights + i, __builtin_bit_cast(__m512i, both));
        }
        const V rescale = Avx512::exp2(Avx512::set1(before - now));
        float* totals = tile.sums + row * kHalf;
        Avx512::store(totals, Avx512::fma(Avx512::load(totals), rescale, Avx512::add(sums[0], sums[1])));
        tile.largest[row] = now;
        if (Avx512::first(rescale) == 1.0F) continue;
        float* o = tile.o + row * tile.d;
        for (std::int64_t i = 0; i < tile.d; i += kHalf)
            Avx512::store(o + i, Avx512::mul(Avx512::load(o + i), rescale));
    }
}

/// One panel of v with zeros for the keys outside of first..last-1, so that what they hold, NaN or infinity,
/// does not meet their weights of zero.
inline const Bf16Bits* without_other_keys(const Bf16Tile& tile, std::int64_t panel, const Segment& segment,
                                          Bf16Bits* out) {
    for (std::int64_t pair = 0; pair < kHalf; ++pair) {
        const std::int64_t key = panel + 2 * pair;
        const bool even = key >= segment.first && key < segment.last;
        const bool odd = key + 1 >= segment.first && key + 1 < segment.last;
        const __m512i kept =
            _mm512_set1_epi32((even ? 0xFFFF : 0) | (odd ? static_cast<int>(0xFFFF0000U) : 0));
        for (std::int64_t d = 0; d < tile.d; d += kHalf) {
            const std::int64_t at = (d / kHalf * kHalf + pair) * kDepth;
            const __m512i values = _mm512_loadu_si512(tile.v + panel * tile.d + at);
            _mm512_storeu_si512(out + at, _mm512_and_si512(values, kept));
        }
    }
    return out;
}

/// The panels of v under one portion of keys, those at its edges without the keys that are not in it.
struct ValuePanels {
    ValuePanels(const Bf16Tile& tile, const KeyTile& keys) {
        for (int s = 0; s < keys.count; ++s) {
            const Segment& segment = keys.segments[s];
            for (std::int64_t key = round_down(segment.first, kBlock); key < segment.last; key += kBlock) {
                const bool whole = key >= segment.first && key + kBlock <= segment.last;
                Bf16Bits* copy = tile.edges + count * kBlock * tile.d;
                at[count++] = whole ? tile.v + key * tile.d : without_other_keys(tile, key, segment, copy);
            }
        }
    }

    const Bf16Bits* at[kMostPanels];
    std::int64_t count = 0;
};

}  // namespace
}  // namespace aerogel
