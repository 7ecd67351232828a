// The two integer products of int8 attention on one tile, register-blocked, and the softmax between them in
// float. Both products are the same loop: rows of values broadcast in steps of kDepth bytes or words, times
// packed panels of kLanes columns. `Isa` gives the vectors, and for each product, Isa::Scores (q k) and
// Isa::Weights (p v),
//   Value, kDepth        what a step of 4 bytes holds
//   kIntegers            integers of 4 bytes that stand for a step of x
//   row(x)               these, in all lanes
//   dot(sum, row, w)     sum += products of a step; w a vector or where it lies
//   kRows, kPanels       the register block
//   kInRegisters         panels of w that are loaded once for all rows, not anew for each
// besides weight(x), kLargestWeight * 2^x for x <= 0 within 2^-18, and store_weights(), of kAlign keys and of
// kWeightKeys; or, of exponents times kExponentUnit, store_powers(), which does both. An Isa with tile
// registers has the whole of both products instead, of Isa::kTiles rows at a time (amx/int8_attention.cpp).
// Included by sources built for one CPU level.
#pragma once

#include <type_traits>

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

    /// Nearly always so: loops over all keys have no end that is left to prediction.
    bool whole() const { return kept == ~std::uint64_t{0}; }
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

template <typename Isa>
concept StoresPowers = requires {
    Isa::kExponentUnit;
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
#pragma GCC unroll 4
            for (int j = 0; j < kPanels; ++j) at[r][j] = first<Product>(block, r);
        const std::int32_t* x = block.x;
        const std::int32_t* w = block.w;
        for (std::int64_t step = 0; step < block.steps; ++step) {
            typename Isa::I columns[kPanels];
#pragma GCC unroll 4
            for (int j = 0; j < kPanels; ++j)
                if (j < Product::kInRegisters) columns[j] = Isa::load_integers(w + j * block.panel);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const auto row = Product::row(x + r * row_steps<Product>());
#pragma GCC unroll 4
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

  private:
    template <typename P>
    static typename Isa::I first(const IntegerBlock& block, int row) {
        if constexpr (Isa::kSigned && std::is_same_v<P, typename Isa::Scores>)
            return Isa::broadcast(block.excess + row);
        return Isa::zero_integers();
    }
};

/// x = s * k_scale of one block, `key` counted from the start of the map.
template <typename Isa, int kRows, int kPanels>
[[gnu::noinline]] void score_rows(const PackedMap& map, const IntegerBlock& block, std::int64_t key,
                                  float* scores) {
    IntegerSums<Isa, typename Isa::Scores, kRows, kPanels> sums(block);
    const bool biased = Isa::kBiased && map.key_bias != 0;
#pragma GCC unroll 4
    for (int j = 0; biased && j < kPanels; ++j) {
        const typename Isa::I bias = Isa::mul_integers(
            Isa::load_integers(map.key_sum + key + j * Isa::kLanes), Isa::broadcast(&map.key_bias));
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) sums.at[r][j] = Isa::add_integers(sums.at[r][j], bias);
    }
    const float* const scales = map.key_scale + key;
#pragma GCC unroll 4
    for (int j = 0; j < kPanels; ++j) {
        const std::int64_t column = j * Isa::kLanes;
        const typename Isa::V scale = Isa::load(scales + column);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
            Isa::store(scores + r * kTileColumns + column, Isa::mul(Isa::to_float(sums.at[r][j]), scale));
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
#pragma GCC unroll 4
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

/// Calls visit(rows, panels) with both as constants: those of the product's block, or fewer.
template <int kRows, int kPanels, typename Visit>
void with_block(std::int64_t rows, std::int64_t panels, const Visit& visit) {
    if constexpr (kRows > 1)
        if (rows < kRows) return with_block<kRows - 1, kPanels>(rows, panels, visit);
    if constexpr (kPanels > 1)
        if (panels < kPanels) return with_block<kRows, kPanels - 1>(rows, panels, visit);
    visit(std::integral_constant<int, kRows>(), std::integral_constant<int, kPanels>());
}

/// Calls visit(first_row, rows) for row groups as equal as possible.
template <typename Product, typename Visit>
void for_row_groups(std::int64_t rows, const Visit& visit) {
    const std::int64_t groups = (rows + Product::kRows - 1) / Product::kRows;
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
        for (std::int64_t at = group.begin; at < group.end; at += Scores::kPanels * Isa::kLanes) {
            const std::int64_t key = group.first + at;
            for_row_groups<Scores>(tile.rows, [&](std::int64_t row, std::int64_t rows) {
                const IntegerBlock block = {
                    static_cast<const std::int32_t*>(tile.q) + row * row_steps<Scores>(),
                    tile.map.keys + key / Isa::kLanes * panel, panel, steps, tile.excess + row};
                float* scores = tile.scores + row * kTileColumns + g * kGroupKeys + at;
                with_block<Scores::kRows, Scores::kPanels>(
                    rows, (group.end - at) / Isa::kLanes,
                    [&](auto r, auto panels) { score_rows<Isa, r, panels>(tile.map, block, key, scores); });
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

/// The largest scores of a row in one group, in every lane those of its keys.
template <typename Isa>
typename Isa::V group_tops(const KeyGroup& group, const float* scores) {
    typename Isa::V top = Isa::set1(-__builtin_inff());
    if (group.whole()) {
#pragma GCC unroll 8
        for (std::int64_t i = 0; i < kGroupKeys; i += Isa::kLanes)
            top = Isa::larger(Isa::load(scores + i), top);
    } else if (group.partial) {
        for (std::int64_t i = group.begin; i < group.end; i += Isa::kLanes)
            top = Isa::larger(Isa::where_kept(group.lanes + i, Isa::load(scores + i)), top);
    } else {
        for (std::int64_t i = group.begin; i < group.end; i += Isa::kLanes)
            top = Isa::larger(Isa::load(scores + i), top);
    }
    return top;
}

template <typename Isa>
struct ToWeights {
    /// In the unit of Isa. Exponents that would overflow in it are multiplied by less: they are so large that
    /// two of them are equal or far apart.
    ToWeights(float to_exponent, float largest) {
        float unit = 1.0F;
        if constexpr (StoresPowers<Isa>)
            unit = __builtin_fabsf(largest) < 0x1p+100F ? Isa::kExponentUnit : 0x1p-50F;
        factor = Isa::set1(to_exponent * unit);
        top = Isa::set1(largest * unit);
    }

    typename Isa::V factor, top;
};

/// Scores of kVectors vectors -> weights, and their sums; each is kLargestWeight * 2^(score * factor - top).
template <typename Isa, int kVectors>
[[gnu::always_inline]] inline typename Isa::I store_some_weights(const ToWeights<Isa>& by,
                                                                 const float* scores,
                                                                 const std::int32_t* lanes,
                                                                 typename Isa::Weights::Value* weights) {
    typename Isa::V x[kVectors];
    // Not fused: rounded like the top itself, so that no exponent is above 0 and no weight above the largest.
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j)
        x[j] = Isa::sub(Isa::mul(Isa::load(scores + j * Isa::kLanes), by.factor), by.top);
    if constexpr (StoresPowers<Isa>) {
        for (int j = 0; lanes != nullptr && j < kVectors; ++j)
            x[j] = Isa::where_kept(lanes + j * Isa::kLanes, x[j]);
        return Isa::store_powers(weights, x);
    } else {
        typename Isa::I p[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
            x[j] = Isa::weight(x[j]);
            if (lanes != nullptr) x[j] = Isa::kept_or_zero(lanes + j * Isa::kLanes, x[j]);
            p[j] = Isa::to_integers(x[j]);
        }
        Isa::store_weights(weights, p);
        typename Isa::I total = p[0];
#pragma GCC unroll 4
        for (int j = 1; j < kVectors; ++j) total = Isa::add_integers(total, p[j]);
        return total;
    }
}

/// tile.rescale = the largest exponent of each group, NaN where the row sees a key whose scale is NaN, then
/// the largest so far; tile.largest with these groups.
template <typename Isa>
void find_tops(const QuantizedTile& tile, const GroupTile& keys) {
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        const float before = tile.largest[row];
        typename Isa::V most[kTileGroups];
        for (std::int64_t g = 0; g < kTileGroups; ++g)
            most[g] = g < keys.count
                          ? group_tops<Isa>(keys.groups[g], tile.scores + row * kTileColumns + g * kGroupKeys)
                          : Isa::set1(before);
        float* tops = tile.rescale + row * 2 * kTileGroups;
        Isa::reduce_larger(most, tops);
        float now = before;
        for (std::int64_t g = 0; g < keys.count; ++g) {
            tops[g] *= keys.groups[g].centroids ? 1.0F : tile.factor[row];
            if (keys.groups[g].poisoned) tops[g] = __builtin_nanf("");
            now = tops[g] > now ? tops[g] : now;
        }
        for (std::int64_t i = kTileGroups; i < 2 * kTileGroups; ++i) tops[i] = before;
        tile.largest[row] = now;
    }
}

/// Scores -> weights 0..kLargestWeight relative to the largest of each group, with the running maximum and
/// sums. The rows' maxima are found before: one row's weights need not wait for them.
template <typename Isa>
void softmax_groups(const QuantizedTile& tile, const GroupTile& keys) {
    using V = typename Isa::V;
    using Value = typename Isa::Weights::Value;
    static_assert(2 * kTileGroups <= Isa::kLanes);
    constexpr std::int64_t kMany = Isa::kWeightKeys;
    constexpr std::int64_t kStride = row_steps<typename Isa::Weights>() * Isa::Weights::kDepth;
    find_tops<Isa>(tile, keys);
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        float* tops = tile.rescale + row * 2 * kTileGroups;
        alignas(64) float powers[Isa::kLanes];
        const V below = Isa::sub(Isa::load_part(tops, 2 * kTileGroups), Isa::set1(tile.largest[row]));
        Isa::store(powers, Isa::exp2(below));
        V sums = Isa::mul(Isa::load(tile.sums + row * Isa::kLanes), Isa::set1(powers[kTileGroups]));
        for (std::int64_t g = 0; g < keys.count; ++g) {
            const KeyGroup& group = keys.groups[g];
            const float to_exponent = group.centroids ? 1.0F : tile.factor[row];
            const ToWeights<Isa> by(to_exponent, tops[g]);
            const float* from = tile.scores + row * kTileColumns + g * kGroupKeys;
            Value* to = static_cast<Value*>(tile.p) + row * kStride + g * kGroupKeys;
            const bool partial = group.partial;
            const std::int64_t end = group.end;
            typename Isa::I total = Isa::zero_integers();
            std::int64_t i = group.begin;
            for (; !partial && i + kMany <= end; i += kMany)
                total = Isa::add_integers(
                    total, store_some_weights<Isa, kMany / Isa::kLanes>(by, from + i, nullptr, to + i));
            for (; i < end; i += kAlign) {
                const std::int32_t* lanes = partial ? group.lanes + i : nullptr;
                total = Isa::add_integers(
                    total, store_some_weights<Isa, kAlign / Isa::kLanes>(by, from + i, lanes, to + i));
            }
            sums = Isa::fma(Isa::to_float(total), Isa::set1(powers[g]), sums);
        }
        Isa::store(tile.sums + row * Isa::kLanes, sums);
        Isa::store_part(tops, 2 * kTileGroups, Isa::load(powers));
    }
}

/// o = o * rescale + sum over groups of F * (weights v).
template <typename Isa>
void value_groups(const QuantizedTile& tile, const GroupTile& keys) {
    using Weights = typename Isa::Weights;
    constexpr std::int64_t kSteps = kGroupKeys / Weights::kDepth;
    constexpr std::int64_t kPanelInts = kSteps * Isa::kLanes;
    for (std::int64_t d = 0; d < tile.d_padded; d += Weights::kPanels * Isa::kLanes) {
        for_row_groups<Weights>(tile.rows, [&](std::int64_t row, std::int64_t rows) {
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
                with_block<Weights::kRows, Weights::kPanels>(
                    rows, (tile.d_padded - d) / Isa::kLanes,
                    [&](auto r, auto count) { value_rows<Isa, r, count>(block, place); });
            }
        });
    }
}

}  // namespace
}  // namespace aerogel
