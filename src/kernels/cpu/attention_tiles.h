// The two matrix products of attention on one tile, register-blocked, and the softmax between them
// (online, Milakov & Gimelshein 2018; tiled, Dao et al., FlashAttention, 2022). `Isa` supplies the vector
// type and its operations; it is local to the including file, hence so is everything instantiated here.
#pragma once

#include "kernels/cpu/attention_tiling.h"

namespace aerogel {
namespace {

/// Where one query tile is in its computation; all memory is the worker's scratch.
struct Tile {
    std::int64_t rows, head_dim, d_padded;
    const float* k;                        ///< packed: [panel][head_dim][16 keys]
    const float* v;                        ///< packed: [head_dim / panel width][key][panel width]
    std::int64_t keys;                     ///< rows of v
    std::int64_t seen;                     ///< row r may see keys before seen + r only
    float* q;                              ///< per row group: [head_dim][rows of the group]
    float* scores;                         ///< [rows][kTileKeys]
    float* o;                              ///< [rows][d_padded]
    float* sums;                           ///< [rows][kPanel]: one partial sum of weights per lane
    float* largest;                        ///< [rows]: largest score so far, times `factor`
    float* rescale;                        ///< [rows]: what sums so far must be multiplied by
    float factor;                          ///< scale * log2(e): weights are powers of two
    std::int64_t centroid = 0;             ///< the first key that is a centroid
    const float* centroid_bias = nullptr;  ///< added to the scores of centroids; null: there are none
};

/// Row groups are as equal as possible, so that none is too small to hide the latency of its sums.
template <typename Isa>
std::int64_t group_count(std::int64_t rows) {
    return (rows + Isa::kRows - 1) / Isa::kRows;
}

template <int kRows, int kVectors, typename Isa>
void score_block(const float* q, const float* k, std::int64_t head_dim, float* scores) {
    using V = typename Isa::V;
    constexpr std::int64_t kLanes = Isa::kLanes;
    const std::int64_t vector_step = kLanes == kPanel ? head_dim * kPanel : kLanes;
    V sums[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sums[r][j] = Isa::zero();
    for (std::int64_t i = 0; i < head_dim; ++i) {
        V keys[kVectors];
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) keys[j] = Isa::load(k + j * vector_step);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const V a = Isa::set1(q[r]);
#pragma GCC unroll 2
            for (int j = 0; j < kVectors; ++j) sums[r][j] = Isa::fma(a, keys[j], sums[r][j]);
        }
        k += kPanel;
        q += kRows;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) Isa::store(scores + r * kTileKeys + j * kLanes, sums[r][j]);
}

/// What value_block() needs beside its place in the tile.
struct ValueBlock {
    const float* weights;  ///< first row of the group in the score tile
    const float* v;        ///< the panel, from key 0
    float* o;
    std::int64_t o_stride;
    const float* rescale;
};

template <int kRows, int kVectors, typename Isa>
void value_block(const KeyTile& keys, const ValueBlock& block) {
    using V = typename Isa::V;
    constexpr std::int64_t kLanes = Isa::kLanes;
    V sums[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j)
            sums[r][j] =
                Isa::mul(Isa::load(block.o + r * block.o_stride + j * kLanes), Isa::set1(block.rescale[r]));
    for (int s = 0; s < keys.count; ++s) {
        const Segment& segment = keys.segments[s];
        const float* p = block.weights + segment.column + segment.first % kPanel;
        const float* v = block.v + segment.first * kLanes * kVectors;
        for (std::int64_t n = segment.last - segment.first; n > 0; --n) {
            V values[kVectors];
#pragma GCC unroll 2
            for (int j = 0; j < kVectors; ++j) values[j] = Isa::load(v + j * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const V a = Isa::set1(p[r * kTileKeys]);
#pragma GCC unroll 2
                for (int j = 0; j < kVectors; ++j) sums[r][j] = Isa::fma(a, values[j], sums[r][j]);
            }
            p += 1;
            v += kLanes * kVectors;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) Isa::store(block.o + r * block.o_stride + j * kLanes, sums[r][j]);
}

template <int... kRows>
struct RowList {};

using ScoreBlock = void (*)(const float*, const float*, std::int64_t, float*);
using ValueBlockFunction = void (*)(const KeyTile&, const ValueBlock&);

/// Blocks of n rows and 1 or 2 vectors, n = 1 .. Isa::kRows.
template <typename Isa, typename Rows>
struct BlockTable;
template <typename Isa, int... kRows>
struct BlockTable<Isa, RowList<kRows...>> {
    static constexpr ScoreBlock kScore[2][sizeof...(kRows) + 1] = {{nullptr, score_block<kRows, 1, Isa>...},
                                                                   {nullptr, score_block<kRows, 2, Isa>...}};
    static constexpr ValueBlockFunction kValue[2][sizeof...(kRows) + 1] = {
        {nullptr, value_block<kRows, 1, Isa>...}, {nullptr, value_block<kRows, 2, Isa>...}};
};

/// scores = q k^T for the keys of `keys`; columns of the panels that no segment names get -inf.
template <typename Isa>
void score_tile(const Tile& tile, const KeyTile& keys) {
    using Table = BlockTable<Isa, typename Isa::Rows>;
    constexpr std::int64_t kWidest = 2 * Isa::kLanes;
    const std::int64_t groups = group_count<Isa>(tile.rows);
    for (int s = 0; s < keys.count; ++s) {
        const Segment& segment = keys.segments[s];
        const std::int64_t start = round_down(segment.first, kPanel);
        const std::int64_t stop = round_up(segment.last, kPanel);
        for (std::int64_t key = start; key < stop; key += kWidest) {
            const int wide = key + kWidest <= stop ? 1 : 0;
            const float* k = tile.k + round_down(key, kPanel) * tile.head_dim + key % kPanel;
            float* scores = tile.scores + segment.column + key - start;
            for (std::int64_t g = 0; g < groups; ++g) {
                const std::int64_t row = tile.rows * g / groups;
                const std::int64_t rows = tile.rows * (g + 1) / groups - row;
                Table::kScore[wide][rows](tile.q + row * tile.head_dim, k, tile.head_dim,
                                          scores + row * kTileKeys);
            }
        }
        float* before = tile.scores + segment.column;
        float* after = before + segment.last - start;
        for (std::int64_t row = 0; row < tile.rows; ++row) {
            for (std::int64_t i = 0; i < segment.first - start; ++i)
                before[row * kTileKeys + i] = -__builtin_inff();
            for (std::int64_t i = 0; i < stop - segment.last; ++i)
                after[row * kTileKeys + i] = -__builtin_inff();
        }
    }
}

/// What is added to the scores: row r and key j get first[j - r] * factor.
struct TileBias {
    const float* first;  ///< null: nothing
    float factor;        ///< 1 / scale, as scores are not scaled yet
};

template <typename Isa>
void bias_tile(const Tile& tile, const KeyTile& keys, const TileBias& bias) {
    if (bias.first == nullptr) return;
    const typename Isa::V factor = Isa::set1(bias.factor);
    for (int s = 0; s < keys.count; ++s) {
        const Segment& segment = keys.segments[s];
        const std::int64_t length = segment.last - segment.first;
        for (std::int64_t row = 0; row < tile.rows; ++row) {
            float* scores = tile.scores + row * kTileKeys + segment.column + segment.first % kPanel;
            const float* from = bias.first + segment.first - row;
            for (std::int64_t i = 0; i < length; i += Isa::kLanes) {
                const std::int64_t lanes = smaller(Isa::kLanes, length - i);
                Isa::store_part(
                    scores + i, lanes,
                    Isa::fma(Isa::load_part(from + i, lanes), factor, Isa::load_part(scores + i, lanes)));
            }
        }
    }
}

/// scores -> weights 2^(factor * score - largest), with the running maximum and sums.
template <typename Isa>
void softmax_tile(const Tile& tile, std::int64_t columns) {
    using V = typename Isa::V;
    constexpr std::int64_t kLanes = Isa::kLanes;
    constexpr int kParts = static_cast<int>(kPanel / kLanes);
    const V factor = Isa::set1(tile.factor);
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        float* scores = tile.scores + row * kTileKeys;
        V tops[kParts];
        V sums[kParts];
#pragma GCC unroll 4
        for (int j = 0; j < kParts; ++j) {
            tops[j] = Isa::set1(-__builtin_inff());
            sums[j] = Isa::zero();
        }
        for (std::int64_t i = 0; i < columns; i += kPanel)
#pragma GCC unroll 4
            for (int j = 0; j < kParts; ++j)
                tops[j] = Isa::larger(Isa::load(scores + i + j * kLanes), tops[j]);
#pragma GCC unroll 4
        for (int j = 1; j < kParts; ++j) tops[0] = Isa::larger(tops[j], tops[0]);
        const float before = tile.largest[row];
        const float top = Isa::reduce_larger(tops[0]) * tile.factor;
        const float now = top > before ? top : before;
        const V largest = Isa::set1(now);
        for (std::int64_t i = 0; i < columns; i += kPanel) {
#pragma GCC unroll 4
            for (int j = 0; j < kParts; ++j) {
                float* place = scores + i + j * kLanes;
                const V weight = Isa::exp2(Isa::fmsub(Isa::load(place), factor, largest));
                Isa::store(place, weight);
                sums[j] = Isa::add(sums[j], weight);
            }
        }
        const V rescale = Isa::exp2(Isa::set1(before - now));
        float* totals = tile.sums + row * kPanel;
#pragma GCC unroll 4
        for (int j = 0; j < kParts; ++j)
            Isa::store(totals + j * kLanes, Isa::fma(Isa::load(totals + j * kLanes), rescale, sums[j]));
        tile.largest[row] = now;
        tile.rescale[row] = Isa::first(rescale);
    }
}

/// o = o * rescale + weights v.
template <typename Isa>
void value_tile(const Tile& tile, const KeyTile& keys) {
    using Table = BlockTable<Isa, typename Isa::Rows>;
    constexpr std::int64_t kWidest = 2 * Isa::kLanes;
    const std::int64_t groups = group_count<Isa>(tile.rows);
    for (std::int64_t d = 0; d < tile.d_padded; d += kWidest) {
        const int wide = d + kWidest <= tile.d_padded ? 1 : 0;
        for (std::int64_t g = 0; g < groups; ++g) {
            const std::int64_t row = tile.rows * g / groups;
            const std::int64_t rows = tile.rows * (g + 1) / groups - row;
            const ValueBlock block = {tile.scores + row * kTileKeys, tile.v + d * tile.keys,
                                      tile.o + row * tile.d_padded + d, tile.d_padded, tile.rescale + row};
            Table::kValue[wide][rows](keys, block);
        }
    }
}

}  // namespace
}  // namespace aerogel
