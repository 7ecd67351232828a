// The two integer products of int8 attention on one tile, register-blocked, and the softmax between them in
// float. Both products are the same loop: rows of values broadcast in steps of kDepth bytes or words, times
// packed panels of kLanes columns. `Isa` gives the vectors, and for each product, Isa::Scores (q k) and
// Isa::Weights (p v),
//   Value, kDepth        what a step of 4 bytes holds
//   kIntegers            integers of 4 bytes that stand for a step of x
//   row(x)               these, in all lanes
//   dot(sum, row, w)     sum += products of a step; w a vector or where it lies
//   kInRegisters         panels of w that are loaded once for all rows, not anew for each
// besides weight(x), kLargestWeight * 2^x for x <= 0 within 2^-18, and store_weights(), kAlign of them. An
// Isa with tile registers has the whole of both products instead, of Isa::kTiles rows at a time
// (amx/int8_attention.cpp).
// Included by sources built for one CPU level.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/attention_tiling.h"

namespace aerogel {
namespace {

constexpr std::int64_t kGroupKeys = kQuantizedKeyGroup;
constexpr std::int64_t kTileGroups = 4;
constexpr std::int64_t kTileColumns = kTileGroups * kGroupKeys;
constexpr std::int64_t kRowSteps = 64;  ///< steps between two rows of q or p, per byte of a value
constexpr std::int64_t kAlign = 16;     ///< keys: what of a group is computed begins and ends on multiples

/// The kept keys of one group: bit i is key first + i. Only columns begin..end-1 of the group are computed.
struct KeyGroup {
    std::int64_t first = 0, begin = 0, end = 0;
    std::uint64_t kept = 0;
    bool partial = false;                             ///< begin..end-1 holds keys that are not kept
    bool poisoned = false;                            ///< a kept key has the scale NaN
    bool centroids = false;                           ///< scores are exponents already
    alignas(64) std::int32_t lanes[kGroupKeys] = {};  ///< all bits set where kept; filled if partial
};

/// One portion of keys. Group g owns columns kGroupKeys * g .. of the score tile.
struct GroupTile {
    KeyGroup groups[kTileGroups];
    std::int64_t count = 0;
};

/// What one map packed for all its tiles.
struct PackedMap {
    std::int32_t* keys;     ///< [panel of kLanes keys][step][kLanes]
    std::int32_t* values;   ///< [group][panel of kLanes channels][step][kLanes]
    float* key_scale;       ///< [k_padded]
    std::int32_t* key_sum;  ///< [k_padded] (Isa::kBiased)
    std::int32_t key_bias;  ///< times key_sum, added to scores: takes what was added to the query off again
    std::uint64_t* bad;     ///< [groups]: bit i = the scale of key i is NaN
    float* v_scale;         ///< [groups][head_dim]
    float* mean_scale;      ///< of centroids, [groups of them][head_dim]
    std::int64_t groups;    ///< of keys; those of centroids come behind them

    const float* v_scale_of(std::int64_t group, std::int64_t head_dim) const {
        return group < groups ? v_scale + group * head_dim : mean_scale + (group - groups) * head_dim;
    }
};

struct QuantizedTile {
    std::int64_t rows, head_dim, d_padded;
    PackedMap map;
    void* q;               ///< [rows][row_steps<Scores>]
    void* p;               ///< [rows][row_steps<Weights>]
    float* scores;         ///< [rows][kTileColumns]
    float* o;              ///< [rows][d_padded]
    float* sums;           ///< [rows][kLanes]: sums of weights
    float* largest;        ///< [rows]: largest exponent so far
    float* factor;         ///< [rows]: what turns x into an exponent of two
    float* rescale;        ///< [rows][2 * kTileGroups]: per group F, then what earlier sums are multiplied by
    std::int32_t* excess;  ///< [rows]: added to the integers of scores (Isa::kSigned)
};

template <typename Product>
constexpr std::int64_t row_steps() {
    return kRowSteps * static_cast<std::int64_t>(sizeof(typename Product::Value)) * Product::kIntegers;
}

template <typename Isa>
concept HasTiles = requires {
    Isa::kTiles;
};

/// Rows first .. first + rows - 1. They share the memory of scores and weights.
template <typename Isa>
QuantizedTile some_rows(const QuantizedTile& tile, std::int64_t first, std::int64_t rows) {
    QuantizedTile some = tile;
    some.rows = rows;
    some.q = static_cast<std::int32_t*>(tile.q) + first * row_steps<typename Isa::Scores>();
    some.o += first * tile.d_padded;
    some.sums += first * Isa::kLanes;
    some.largest += first;
    some.factor += first;
    some.rescale += first * 2 * kTileGroups;
    some.excess += first;
    return some;
}

/// Operands of one block of rows x panels. Panels lie `panel` ints apart.
struct IntegerBlock {
    const std::int32_t* x;
    const std::int32_t* w;
    std::int64_t panel, steps;
    const std::int32_t* excess = nullptr;  ///< as that of QuantizedTile
};

template <typename Isa, typename Product, int kRows, int kPanels>
struct IntegerSums {
    typename Isa::I at[kRows][kPanels];

    explicit IntegerSums(const IntegerBlock& block) {
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
            for (int j = 0; j < kPanels; ++j) at[r][j] = Isa::zero_integers();
        const std::int32_t* x = block.x;
        const std::int32_t* w = block.w;
        for (std::int64_t step = 0; step < block.steps; ++step) {
            typename Isa::I columns[kPanels];
#pragma GCC unroll 2
            for (int j = 0; j < kPanels; ++j)
                if (j < Product::kInRegisters) columns[j] = Isa::load_integers(w + j * block.panel);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const auto row = Product::row(x + r * row_steps<Product>());
#pragma GCC unroll 2
                for (int j = 0; j < kPanels; ++j) {
                    if constexpr (Product::kInRegisters > 0)
                        if (j < Product::kInRegisters) at[r][j] = Product::dot(at[r][j], row, columns[j]);
                    if constexpr (Product::kInRegisters < 2)
                        if (j >= Product::kInRegisters)
                            at[r][j] = Product::dot(at[r][j], row, w + j * block.panel);
                }
            }
            x += Product::kIntegers;
            w += Isa::kLanes;
        }
    }
};

/// x = s * k_scale of one block, `key` counted from the start of the map.
template <typename Isa, int kRows, int kPanels>
[[gnu::noinline]] void score_rows(const PackedMap& map, const IntegerBlock& block, std::int64_t key,
                                  float* scores) {
    IntegerSums<Isa, typename Isa::Scores, kRows, kPanels> sums(block);
#pragma GCC unroll 2
    for (int j = 0; j < kPanels; ++j) {
        const std::int64_t column = j * Isa::kLanes;
        const typename Isa::V scale = Isa::load(map.key_scale + key + column);
        typename Isa::I bias = Isa::zero_integers();
        if constexpr (Isa::kBiased)
            bias = Isa::mul_integers(Isa::load_integers(map.key_sum + key + column),
                                     Isa::broadcast(&map.key_bias));
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            typename Isa::I sum = sums.at[r][j];
            if constexpr (Isa::kBiased) sum = Isa::add_integers(sum, bias);
            if constexpr (Isa::kSigned) sum = Isa::add_integers(sum, Isa::broadcast(block.excess + r));
            Isa::store(scores + r * kTileColumns + column, Isa::mul(Isa::to_float(sum), scale));
        }
    }
}

/// Where value_rows() adds.
struct ValuePlace {
    float* o;
    std::int64_t stride, width;  ///< floats between rows of o; channels from here to the end
    const float* scale;          ///< of the group's channels
    const float* factor;         ///< F of the first row; rows are 2 * kTileGroups floats apart
    bool fresh;                  ///< the tile's first group: earlier sums are rescaled
};

template <typename Isa, int kRows, int kPanels>
[[gnu::noinline]] void value_rows(const IntegerBlock& block, const ValuePlace& place) {
    using V = typename Isa::V;
    IntegerSums<Isa, typename Isa::Weights, kRows, kPanels> sums(block);
    // Locals: the stores below could otherwise change them.
    float* const first = place.o;
    const float* const factors = place.factor;
    const std::int64_t stride = place.stride;
    const bool fresh = place.fresh;
#pragma GCC unroll 2
    for (int j = 0; j < kPanels; ++j) {
        const std::int64_t column = j * Isa::kLanes;
        const V scale = Isa::load_part(place.scale + column, smaller(Isa::kLanes, place.width - column));
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const float* factor = factors + r * 2 * kTileGroups;
            float* o = first + r * stride + column;
            V before = Isa::load(o);
            if (fresh) before = Isa::mul(before, Isa::set1(factor[kTileGroups]));
            const V value = Isa::mul(Isa::to_float(sums.at[r][j]), scale);
            Isa::store(o, Isa::fma(Isa::set1(factor[0]), value, before));
        }
    }
}

template <typename Isa, int kPanels, int kRows = static_cast<int>(Isa::kRows)>
void score_block(std::int64_t rows, const PackedMap& map, const IntegerBlock& block, std::int64_t key,
                 float* scores) {
    if constexpr (kRows > 0) {
        if (rows == kRows) return score_rows<Isa, kRows, kPanels>(map, block, key, scores);
        score_block<Isa, kPanels, kRows - 1>(rows, map, block, key, scores);
    }
}

template <typename Isa, int kPanels, int kRows = static_cast<int>(Isa::kRows)>
void value_block(std::int64_t rows, const IntegerBlock& block, const ValuePlace& place) {
    if constexpr (kRows > 0) {
        if (rows == kRows) return value_rows<Isa, kRows, kPanels>(block, place);
        value_block<Isa, kPanels, kRows - 1>(rows, block, place);
    }
}

/// Calls visit(first_row, rows) for row groups as equal as possible.
template <typename Isa, typename Visit>
void for_row_groups(std::int64_t rows, const Visit& visit) {
    const std::int64_t groups = (rows + Isa::kRows - 1) / Isa::kRows;
    for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = rows * g / groups;
        visit(first, rows * (g + 1) / groups - first);
    }
}

template <typename Isa>
void score_groups(const QuantizedTile& tile, const GroupTile& keys) {
    using Scores = typename Isa::Scores;
    const std::int64_t steps = (tile.head_dim + Scores::kDepth - 1) / Scores::kDepth;
    const std::int64_t panel = steps * Isa::kLanes;
    for (std::int64_t g = 0; g < keys.count; ++g) {
        const KeyGroup& group = keys.groups[g];
        for (std::int64_t at = group.begin; at < group.end; at += 2 * Isa::kLanes) {
            const std::int64_t key = group.first + at;
            for_row_groups<Isa>(tile.rows, [&](std::int64_t row, std::int64_t rows) {
                const IntegerBlock block = {
                    static_cast<const std::int32_t*>(tile.q) + row * row_steps<Scores>(),
                    tile.map.keys + key / Isa::kLanes * panel, panel, steps, tile.excess + row};
                float* scores = tile.scores + row * kTileColumns + g * kGroupKeys + at;
                if (group.end - at > Isa::kLanes) {
                    score_block<Isa, 2>(rows, tile.map, block, key, scores);
                } else {
                    score_block<Isa, 1>(rows, tile.map, block, key, scores);
                }
            });
        }
    }
}

/// The scores of centroids as exponents of two, with the log of their keys: log2(first), but of centroid
/// `last` that of another number.
struct CentroidCounts {
    float first_log, last_log;
    std::int64_t last;  ///< counted as keys are
};

template <typename Isa>
void add_counts(const QuantizedTile& tile, const GroupTile& keys, const CentroidCounts& counts) {
    for (std::int64_t g = 0; g < keys.count; ++g) {
        const KeyGroup& group = keys.groups[g];
        if (!group.centroids) continue;
        const std::int64_t last = counts.last - group.first;
        for (std::int64_t row = 0; row < tile.rows; ++row) {
            float* scores = tile.scores + row * kTileColumns + g * kGroupKeys;
            for (std::int64_t i = group.begin; i < group.end; ++i)
                scores[i] = scores[i] * tile.factor[row] + (i == last ? counts.last_log : counts.first_log);
        }
    }
}

/// Largest exponent of a row in one group; NaN when it can see a key whose scale is NaN.
template <typename Isa>
float group_top(const KeyGroup& group, const float* scores, float factor) {
    typename Isa::V top = Isa::set1(-__builtin_inff());
    for (std::int64_t i = group.begin; i < group.end; i += Isa::kLanes) {
        typename Isa::V x = Isa::load(scores + i);
        if (group.partial) x = Isa::where_kept(group.lanes + i, x);
        top = Isa::larger(x, top);
    }
    return group.poisoned ? __builtin_nanf("") : Isa::reduce_larger(top) * factor;
}

/// Scores -> weights 0..kLargestWeight relative to the largest of each group, with the running maximum and
/// sums.
template <typename Isa>
void softmax_groups(const QuantizedTile& tile, const GroupTile& keys) {
    using V = typename Isa::V;
    using Value = typename Isa::Weights::Value;
    static_assert(2 * kTileGroups <= Isa::kLanes);
    constexpr int kParts = static_cast<int>(kAlign / Isa::kLanes);
    constexpr std::int64_t kStride = row_steps<typename Isa::Weights>() * Isa::Weights::kDepth;
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        const float* scores = tile.scores + row * kTileColumns;
        Value* weights = static_cast<Value*>(tile.p) + row * kStride;
        const float factor = tile.factor[row];
        const float before = tile.largest[row];
        alignas(64) float tops[Isa::kLanes] = {};
        alignas(64) float powers[Isa::kLanes];
        float now = before;
        for (std::int64_t g = 0; g < keys.count; ++g) {
            const float to_exponent = keys.groups[g].centroids ? 1.0F : factor;
            tops[g] = group_top<Isa>(keys.groups[g], scores + g * kGroupKeys, to_exponent);
            now = tops[g] > now ? tops[g] : now;
        }
        for (std::int64_t i = 0; i < Isa::kLanes; ++i) powers[i] = (i < keys.count ? tops[i] : before) - now;
        Isa::store(powers, Isa::exp2(Isa::load(powers)));
        V sums = Isa::mul(Isa::load(tile.sums + row * Isa::kLanes), Isa::set1(powers[kTileGroups]));
        for (std::int64_t g = 0; g < keys.count; ++g) {
            const KeyGroup& group = keys.groups[g];
            const V top = Isa::set1(tops[g]), to_exponent = Isa::set1(group.centroids ? 1.0F : factor);
            typename Isa::I total = Isa::zero_integers();
            for (std::int64_t i = group.begin; i < group.end; i += kAlign) {
                typename Isa::I p[kParts];
#pragma GCC unroll 4
                for (int j = 0; j < kParts; ++j) {
                    const std::int64_t at = i + j * Isa::kLanes;
                    const V x = Isa::load(scores + g * kGroupKeys + at);
                    // Not fused: rounded like the top itself, so that no exponent is above 0 and no weight
                    // above the largest.
                    V weight = Isa::weight(Isa::sub(Isa::mul(x, to_exponent), top));
                    if (group.partial) weight = Isa::kept_or_zero(group.lanes + at, weight);
                    p[j] = Isa::to_integers(weight);
                    total = Isa::add_integers(total, p[j]);
                }
                Isa::store_weights(weights + g * kGroupKeys + i, p);
            }
            sums = Isa::fma(Isa::to_float(total), Isa::set1(powers[g]), sums);
        }
        Isa::store(tile.sums + row * Isa::kLanes, sums);
        tile.largest[row] = now;
        for (std::int64_t i = 0; i < 2 * kTileGroups; ++i)
            tile.rescale[row * 2 * kTileGroups + i] = powers[i];
    }
}

/// o = o * rescale + sum over groups of F * (weights v).
template <typename Isa>
void value_groups(const QuantizedTile& tile, const GroupTile& keys) {
    using Weights = typename Isa::Weights;
    constexpr std::int64_t kSteps = kGroupKeys / Weights::kDepth;
    constexpr std::int64_t kPanelInts = kSteps * Isa::kLanes;
    for (std::int64_t d = 0; d < tile.d_padded; d += 2 * Isa::kLanes) {
        for_row_groups<Isa>(tile.rows, [&](std::int64_t row, std::int64_t rows) {
            for (std::int64_t g = 0; g < keys.count; ++g) {
                const KeyGroup& group = keys.groups[g];
                const std::int64_t index = group.first / kGroupKeys, skipped = group.begin / Weights::kDepth;
                const std::int32_t* panels = tile.map.values + index * kSteps * tile.d_padded;
                const IntegerBlock block = {static_cast<const std::int32_t*>(tile.p) +
                                                row * row_steps<Weights>() + g * kSteps + skipped,
                                            panels + d / Isa::kLanes * kPanelInts + skipped * Isa::kLanes,
                                            kPanelInts, (group.end - group.begin) / Weights::kDepth};
                const ValuePlace place = {tile.o + row * tile.d_padded + d,
                                          tile.d_padded,
                                          tile.head_dim - d,
                                          tile.map.v_scale_of(index, tile.head_dim) + d,
                                          tile.rescale + row * 2 * kTileGroups + g,
                                          g == 0};
                if (tile.d_padded - d > Isa::kLanes) {
                    value_block<Isa, 2>(rows, block, place);
                } else {
                    value_block<Isa, 1>(rows, block, place);
                }
            }
        });
    }
}

}  // namespace
}  // namespace aerogel
