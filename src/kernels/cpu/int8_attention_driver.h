// Int8 attention from strided arrays to strided output: quantizes and packs keys and values of a group of
// maps, then runs tiles of queries through int8_attention_tiles.h. `Isa` as there.
#pragma once

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "kernels/cpu/bf16_bits.h"
#include "kernels/cpu/centroids.h"
#include "kernels/cpu/int8_attention_tiles.h"
#include "kernels/cpu/int8_scales.h"

namespace aerogel {
namespace {

constexpr std::int64_t kTileRowGroups = 8;  ///< register blocks of rows per task

/// Sizes of one call, all in 4-byte units.
struct Int8Tiling : QueryTiles {
    std::int64_t group;                   ///< maps of k and v packed at a time
    std::int64_t key_groups, groups;      ///< groups of keys; with those of centroids behind them
    std::int64_t d_padded;                ///< whole vectors of head_dim
    std::int64_t keys, values, map_size;  ///< packed keys, packed values, everything of a map
    std::int64_t row_size, worker_size;   ///< scratch per row and per thread
};

template <typename Isa>
Int8Tiling tile_int8(const AttentionProblem& problem) {
    constexpr std::int64_t kGroupSize = std::int64_t{8} << 20;
    constexpr std::int64_t kMaxRows = kTileRowGroups * Isa::kRows;
    Int8Tiling tiling;
    tiling.key_groups = (problem.k_len + kGroupKeys - 1) / kGroupKeys;
    const std::int64_t centroid_groups = (centroids_of(problem) + kGroupKeys - 1) / kGroupKeys;
    tiling.groups = tiling.key_groups + centroid_groups;
    tiling.d_padded = round_up(problem.head_dim, Isa::kLanes);
    const std::int64_t k_padded = tiling.groups * kGroupKeys;
    tiling.keys = k_padded * ((problem.head_dim + Isa::Scores::kDepth - 1) / Isa::Scores::kDepth);
    tiling.values = k_padded / Isa::Weights::kDepth * tiling.d_padded;
    // Scales and sums of keys, two units per group for the bits of bad keys, and scales of centroids.
    tiling.map_size = round_up(
        tiling.keys + tiling.values + 2 * k_padded + 2 * tiling.groups + centroid_groups * problem.head_dim,
        kPanel);
    tiling.group = kGroupSize / (tiling.map_size + 1);
    tiling.group = tiling.group < 1 ? 1 : smaller(tiling.group, problem.kv_maps());
    tiling.cut_queries(problem, kMaxRows, 2 * Isa::kRows);
    // q, p, scores, o, sums, factors of groups, largest exponent, factor, excess.
    tiling.row_size = row_steps<typename Isa::Scores>() + row_steps<typename Isa::Weights>() + kTileColumns +
                      tiling.d_padded + Isa::kLanes + 2 * kTileGroups + 3;
    tiling.worker_size = round_up(kMaxRows * tiling.row_size, kPanel);
    return tiling;
}

inline float at_or_zero(const float* values, std::int64_t index) {
    return values == nullptr ? 0.0F : values[index];
}

inline const float* advance(const float* values, std::int64_t count) {
    return values == nullptr ? nullptr : values + count;
}

/// Whether Divisor may multiply by the reciprocal of these scales: normal numbers far from both ends whose
/// mantissas are not all ones, which the theorem excludes.
inline bool may_multiply(const float* scales, std::int64_t count) {
    constexpr float kSmallest = 0x1p-96F, kLargest = 0x1p96F;
    bool all = true;
    for (std::int64_t i = 0; i < count; ++i) {
        const auto bits = __builtin_bit_cast(std::uint32_t, scales[i]);
        all &= scales[i] > kSmallest && scales[i] < kLargest && (bits & 0x7FFFFF) != 0x7FFFFF;
    }
    return all;
}

/// x / scale rounded as the division itself is: by Markstein's correction of x * (1 / scale) (IBM Journal of
/// Research and Development 34, 1990), at a fifth of the cost. Quotients beyond 1024 stay beyond 1024.
template <typename Isa>
struct Divisor {
    using V = typename Isa::V;

    Divisor(V by, bool may_multiply_by_it)
        : scale(by), inverse(Isa::div(Isa::set1(1.0F), by)), multiplies(may_multiply_by_it) {}

    V quotient(V x) const {
        if (!multiplies) return Isa::div(x, scale);
        const V limit = Isa::set1(1024.0F);
        const V near = Isa::smaller(Isa::larger(Isa::mul(x, inverse), Isa::sub(Isa::zero(), limit)), limit);
        return Isa::fma(Isa::fnma(near, scale, x), inverse, near);
    }

    V scale, inverse;
    bool multiplies;
};

/// clamp(rint((x - mean) / scale + offset)) of one vector; where the scale is NaN, some integer of that
/// range.
template <typename Isa>
typename Isa::I quantize_lanes(typename Isa::V x, typename Isa::V mean, const Divisor<Isa>& divisor,
                               typename Isa::V offset) {
    const typename Isa::V q = Isa::add(divisor.quotient(Isa::sub(x, mean)), offset);
    return Isa::to_integers(Isa::smaller(Isa::larger(q, Isa::set1(-128.0F)), Isa::set1(127.0F)));
}

/// What one token of q or k is quantized with.
struct TokenScale {
    float scale, offset;
    const float* mean;     ///< [head_dim] or null
    std::int32_t correct;  ///< added to every integer
};

/// One token as values, whole vectors; those past head_dim are zeros.
template <typename Isa, typename Element>
void quantize_token(const Element* x, std::int64_t head_dim, const TokenScale& by,
                    typename Isa::Scores::Value* out) {
    const Divisor<Isa> divisor(Isa::set1(by.scale), may_multiply(&by.scale, 1));
    const typename Isa::V offset = Isa::set1(by.offset);
    for (std::int64_t d = 0; d < head_dim; d += Isa::kLanes) {
        const std::int64_t width = smaller(Isa::kLanes, head_dim - d);
        const typename Isa::V mean = by.mean == nullptr ? Isa::zero() : Isa::load_part(by.mean + d, width);
        const typename Isa::I q = quantize_lanes<Isa>(Isa::load_part(x + d, width), mean, divisor, offset);
        Isa::store_values(out + d, Isa::add_integers(q, Isa::broadcast(&by.correct)));
    }
    for (std::int64_t d = head_dim; d < round_up(head_dim, Isa::kLanes); ++d) out[d] = 0;
}

inline PackedMap packed_map(const AttentionProblem& problem, const AttentionCall& call,
                            const Int8Tiling& tiling, std::int64_t map, std::int32_t* start) {
    PackedMap packed;
    packed.keys = start;
    packed.values = packed.keys + tiling.keys;
    packed.key_scale = reinterpret_cast<float*>(packed.values + tiling.values);
    packed.key_sum = reinterpret_cast<std::int32_t*>(packed.key_scale + tiling.groups * kGroupKeys);
    packed.bad = reinterpret_cast<std::uint64_t*>(packed.key_sum + tiling.groups * kGroupKeys);
    packed.v_scale = call.int8.v_scale + map * tiling.key_groups * problem.head_dim;
    packed.mean_scale = reinterpret_cast<float*>(packed.bad + tiling.groups);
    packed.groups = tiling.key_groups;
    return packed;
}

/// The scale of one token, found here where that is left to run(), else of the array that begins at its map.
template <typename Element>
float scale_of_token(const AttentionCall& call, const LargestBits<Element>& bits, std::int64_t token,
                     const float* scales) {
    return call.int8.on_the_way ? scale_of(bits.of_token(token)) : scales[token];
}

/// Keys of one group; those past k_len are zeros.
template <typename Isa, typename Element>
void pack_quantized_keys(const AttentionProblem& problem, const AttentionCall& call, const PackedMap& packed,
                         std::int64_t map, std::int64_t group) {
    using Scores = typename Isa::Scores;
    const std::int64_t steps = (problem.head_dim + Scores::kDepth - 1) / Scores::kDepth;
    const Int8Arrays& arrays = call.int8;
    TokenScale by = {1.0F, at_or_zero(arrays.k_offset, map), advance(arrays.k_mean, map * problem.head_dim),
                     0};
    const Operand of = {problem, call.k, call.k_strides, problem.kv_heads, problem.k_len, arrays.k_mean};
    const LargestBits<Element> bits(of, map);
    const bool biased = Isa::kBiased && (Isa::kBias != 0 || arrays.q_offset != nullptr);
    std::uint64_t bad = 0;
    for (std::int64_t i = 0; i < kGroupKeys; ++i) {
        const std::int64_t key = group * kGroupKeys + i;
        alignas(64) typename Scores::Value values[256] = {};
        by.scale = 0.0F;
        bits.rows.prefetch(key + kAhead, problem.k_len, problem.head_dim);
        if (key < problem.k_len) {
            by.scale = scale_of_token(call, bits, key, advance(arrays.k_scale, map * problem.k_len));
            quantize_token<Isa>(bits.rows.at(key), problem.head_dim, by, values);
        }
        std::int32_t* out = packed.keys + key / Isa::kLanes * steps * Isa::kLanes + key % Isa::kLanes;
        for (std::int64_t step = 0; step < steps; ++step)
            __builtin_memcpy(out + step * Isa::kLanes, values + step * Scores::kDepth, 4);
        packed.key_scale[key] = by.scale;
        if (by.scale != by.scale) bad |= std::uint64_t{1} << i;
        if (biased) {
            std::int32_t sum = 0;
            for (std::int64_t d = 0; d < problem.head_dim; ++d) sum += values[d];
            packed.key_sum[key] = sum;
        }
    }
    packed.bad[group] = bad;
}

/// Values of one group: kDepth keys of a channel side by side. Those past k_len are zeros.
template <typename Isa, typename Element>
void pack_quantized_values(const AttentionProblem& problem, const AttentionCall& call,
                           const PackedMap& packed, std::int64_t map, std::int64_t group) {
    constexpr std::int64_t kDepth = Isa::Weights::kDepth, kSteps = kGroupKeys / kDepth;
    constexpr int kBits = 32 / static_cast<int>(kDepth);
    const Rows v = rows_of<const Element>(call.v, call.v_strides, problem.kv_heads, map);
    const float* means = advance(call.int8.v_mean, map * problem.head_dim);
    const float* scales = packed.v_scale + group * problem.head_dim;
    if (call.int8.on_the_way) {
        const Operand of = {problem,          call.v,        call.v_strides,
                            problem.kv_heads, problem.k_len, call.int8.v_mean};
        channel_scales<Element>(of, map, group, packed.v_scale + group * problem.head_dim);
    }
    const typename Isa::V offset = Isa::set1(at_or_zero(call.int8.v_offset, map));
    std::int32_t* out = packed.values + group * kSteps * round_up(problem.head_dim, Isa::kLanes);
    for (std::int64_t d = 0; d < problem.head_dim; d += Isa::kLanes) {
        const std::int64_t width = smaller(Isa::kLanes, problem.head_dim - d);
        const typename Isa::V mean = means == nullptr ? Isa::zero() : Isa::load_part(means + d, width);
        const Divisor<Isa> divisor(Isa::load_part(scales + d, width), may_multiply(scales + d, width));
        for (std::int64_t step = 0; step < kSteps; ++step, out += Isa::kLanes) {
            typename Isa::I joined = Isa::zero_integers();
            for (std::int64_t i = kDepth; i-- > 0;) {
                const std::int64_t key = group * kGroupKeys + step * kDepth + i;
                joined = Isa::template shift_left<kBits>(joined);
                if (key >= problem.k_len) continue;
                const typename Isa::V x = Isa::load_part(v.at(key) + d, width);
                joined = Isa::add_integers(
                    joined, Isa::template low_bits<kBits>(quantize_lanes<Isa>(x, mean, divisor, offset)));
            }
            Isa::store_integers(out, joined);
        }
    }
}

/// The centroids of some maps behind their keys.
template <typename Isa>
void pack_quantized_centroids(const AttentionProblem& problem, const AttentionCall& call,
                              const Int8Tiling& tiling, const KeyMaps& maps, const float* means) {
    const AttentionProblem of = centroid_problem(problem, DType::f32);
    AttentionCall from = centroid_call(problem, call, means);
    from.int8.on_the_way = true;
    const std::int64_t groups = tiling.groups - tiling.key_groups, before = tiling.key_groups * kGroupKeys;
    auto* packed = reinterpret_cast<std::int32_t*>(call.workspace);
    parallel_for(maps.count * groups, [&](std::int64_t task, int) {
        const std::int64_t local = task / groups, map = maps.first + local;
        PackedMap to = packed_map(problem, call, tiling, map, packed + local * tiling.map_size);
        to.keys += tiling.key_groups * (tiling.keys / tiling.groups);
        to.values += tiling.key_groups * (tiling.values / tiling.groups);
        to.key_scale += before;
        to.key_sum += before;
        to.bad += tiling.key_groups;
        to.v_scale = to.mean_scale;
        pack_quantized_keys<Isa, float>(of, from, to, map, task % groups);
        pack_quantized_values<Isa, float>(of, from, to, map, task % groups);
    });
}

/// The keys that a row of query blocks sees, as groups.
struct GroupCursor {
    KeyCursor keys;
    const std::int32_t* columns = nullptr;  ///< all that the row keeps, where there are centroids

    static std::uint64_t bits(std::int64_t first, std::int64_t last) {
        const std::uint64_t below = last == kGroupKeys ? ~std::uint64_t{0} : (std::uint64_t{1} << last) - 1;
        return below & ~((std::uint64_t{1} << first) - 1);
    }

    /// The centroids `group.first` .. of blocks that are kept.
    std::uint64_t kept_blocks(std::int64_t first) const {
        std::uint64_t found = 0;
        for (const std::int32_t* column = columns; column != keys.end; ++column)
            if (*column >= first && *column < first + kGroupKeys)
                found |= std::uint64_t{1} << (*column - first);
        return found;
    }

    bool next(KeyGroup& group, const std::uint64_t* bad) {
        if (keys.first == keys.last && !keys.next_run()) return false;
        group.first = round_down(keys.first, kGroupKeys);
        group.kept = 0;
        const std::int64_t limit = group.first + kGroupKeys;
        do {
            const std::int64_t stop = smaller(keys.last, limit);
            group.kept |= bits(keys.first - group.first, stop - group.first);
            keys.first = stop;
        } while (keys.first == keys.last && keys.next_run() && keys.first < limit);
        group.centroids = keys.centroid > 0 && group.first >= keys.centroid;
        if (group.centroids) group.kept &= ~kept_blocks(group.first - keys.centroid);
        if (group.kept == 0) return next(group, bad);
        group.begin = round_down(__builtin_ctzll(group.kept), kAlign);
        group.end = round_up(kGroupKeys - __builtin_clzll(group.kept), kAlign);
        group.partial = group.kept != bits(group.begin, group.end);
        group.poisoned = (group.kept & bad[group.first / kGroupKeys]) != 0;
        for (std::int64_t i = 0; group.partial && i < kGroupKeys; ++i)
            group.lanes[i] = (group.kept >> i & 1) != 0 ? -1 : 0;
        return true;
    }

    bool next(GroupTile& tile, const std::uint64_t* bad) {
        tile.count = 0;
        while (tile.count < kTileGroups && next(tile.groups[tile.count], bad)) ++tile.count;
        return tile.count != 0;
    }
};

template <typename Isa>
QuantizedTile make_tile(const AttentionProblem& problem, const Int8Tiling& tiling, std::int32_t* scratch) {
    constexpr std::int64_t kMaxRows = kTileRowGroups * Isa::kRows;
    QuantizedTile tile;
    tile.head_dim = problem.head_dim;
    tile.d_padded = tiling.d_padded;
    tile.q = scratch;
    std::int32_t* p = scratch + kMaxRows * row_steps<typename Isa::Scores>();
    tile.p = p;
    tile.scores = reinterpret_cast<float*>(p + kMaxRows * row_steps<typename Isa::Weights>());
    tile.o = tile.scores + kMaxRows * kTileColumns;
    tile.sums = tile.o + kMaxRows * tiling.d_padded;
    tile.rescale = tile.sums + kMaxRows * Isa::kLanes;
    tile.largest = tile.rescale + kMaxRows * 2 * kTileGroups;
    tile.factor = tile.largest + kMaxRows;
    tile.excess = reinterpret_cast<std::int32_t*>(tile.factor + kMaxRows);
    return tile;
}

template <typename Isa>
void store_lse(const QuantizedTile& tile, bool empty, const Rows<float>& lse, std::int64_t first) {
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        const float sum = Isa::reduce_add(Isa::load(tile.sums + row * Isa::kLanes));
        *lse.at(first + row) = log_sum_exp(empty, tile.largest[row], sum / Isa::kLargestWeight);
    }
}

/// Divides by the sums of weights; rows without keys are zeros.
template <typename Isa, typename Element>
void store_rows(const QuantizedTile& tile, const float* shift, bool empty, const Rows<Element>& o,
                std::int64_t first) {
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        o.prefetch(first + row + kAhead, first + tile.rows, tile.head_dim);
        Element* to = o.at(first + row);
        const float sum = Isa::reduce_add(Isa::load(tile.sums + row * Isa::kLanes));
        const typename Isa::V total = Isa::set1(empty ? 1.0F : sum);
        for (std::int64_t d = 0; d < tile.head_dim; d += Isa::kLanes) {
            const std::int64_t width = smaller(Isa::kLanes, tile.head_dim - d);
            typename Isa::V value = Isa::div(Isa::load(tile.o + row * tile.d_padded + d), total);
            if (shift != nullptr && !empty) value = Isa::add(value, Isa::load_part(shift + d, width));
            Isa::store_part(to + d, width, value);
        }
    }
}

inline CentroidCounts counts_of(const AttentionProblem& problem, std::int64_t centroid) {
    if (!problem.centroids || problem.k_len == 0) return {0.0F, 0.0F, 0};
    const std::int64_t last = problem.k_blocks() - 1;
    return {__builtin_log2f(static_cast<float>(problem.keys_of_block(0))),
            __builtin_log2f(static_cast<float>(problem.keys_of_block(last))), centroid + last};
}

/// The cursor of a row of query blocks.
inline GroupCursor groups_of(const AttentionProblem& problem, const AttentionCall& call,
                             const Int8Tiling& tiling, std::int64_t map, std::int64_t block) {
    GroupCursor cursor = {keys_of(problem, call.mask, map, block)};
    if (!problem.centroids) return cursor;
    cursor.columns = cursor.keys.column;
    cursor.keys.centroid = tiling.key_groups * kGroupKeys;
    cursor.keys.centroids = problem.k_blocks();
    return cursor;
}

/// Queries of one map from `first` on.
struct QueryRows {
    std::int64_t map, kv_map, first;
};

/// One portion of keys.
template <typename Isa>
void attend_groups(const QuantizedTile& tile, const GroupTile& keys, const CentroidCounts& counts) {
    if constexpr (HasTiles<Isa>) {
        for (std::int64_t row = 0; row < tile.rows; row += Isa::kTiles) {
            const QuantizedTile some = some_rows<Isa>(tile, row, smaller(Isa::kTiles, tile.rows - row));
            Isa::score_tiles(some, keys);
            add_counts<Isa>(some, keys, counts);
            softmax_groups<Isa>(some, keys);
            Isa::value_tiles(some, keys);
        }
    } else {
        score_groups<Isa>(tile, keys);
        add_counts<Isa>(tile, keys, counts);
        softmax_groups<Isa>(tile, keys);
        value_groups<Isa>(tile, keys);
    }
}

/// tile.rows queries, over the keys of the cursor.
template <typename Isa, typename Element>
void compute_rows(const AttentionProblem& problem, const AttentionCall& call, QuantizedTile& tile,
                  GroupCursor cursor, const QueryRows& rows) {
    using Scores = typename Isa::Scores;
    constexpr float kLowest = -3.0e38F, kLog2E = 1.44269504F;
    const auto [map, kv_map, first] = rows;
    const float q_offset = at_or_zero(call.int8.q_offset, map);
    const std::int32_t correct = Isa::kBiased ? Isa::kBias : -static_cast<std::int32_t>(q_offset);
    tile.map.key_bias = -(Isa::kBias + static_cast<std::int32_t>(q_offset));
    const Operand of = {problem, call.q, call.q_strides, problem.heads, problem.q_len};
    const LargestBits<Element> bits(of, map);
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        bits.rows.prefetch(first + row + kAhead, first + tile.rows, problem.head_dim);
        const float scale =
            scale_of_token(call, bits, first + row, advance(call.int8.q_scale, map * problem.q_len));
        const TokenScale by = {scale, q_offset, nullptr, correct};
        std::int32_t* q = static_cast<std::int32_t*>(tile.q) + row * row_steps<Scores>();
        if constexpr (Isa::kSigned) {
            alignas(64) std::int8_t values[256] = {};
            quantize_token<Isa>(bits.rows.at(first + row), problem.head_dim, by, values);
            tile.excess[row] = Isa::split(values, problem.head_dim, q);
        } else {
            quantize_token<Isa>(bits.rows.at(first + row), problem.head_dim, by,
                                reinterpret_cast<typename Scores::Value*>(q));
        }
        if constexpr (HasTiles<Isa>) Isa::pad_row(q, problem.head_dim);
        tile.factor[row] = scale * (call.scale * kLog2E);
        tile.largest[row] = kLowest;
    }
    for (std::int64_t i = 0; i < tile.rows * tile.d_padded; ++i) tile.o[i] = 0.0F;
    for (std::int64_t i = 0; i < tile.rows * Isa::kLanes; ++i) tile.sums[i] = 0.0F;
    GroupTile keys;
    bool empty = true;
    const CentroidCounts counts = counts_of(problem, cursor.keys.centroid);
    if constexpr (HasTiles<Isa>) Isa::begin();
    while (cursor.next(keys, tile.map.bad)) {
        attend_groups<Isa>(tile, keys, counts);
        empty = false;
    }
    if constexpr (HasTiles<Isa>) Isa::end();
    store_rows<Isa>(tile, advance(call.int8.v_shift, kv_map * problem.head_dim), empty,
                    rows_of<Element>(call.o, call.o_strides, problem.heads, map), first);
    if (problem.wants_lse) store_lse<Isa>(tile, empty, lse_of(problem, call, map), first);
}

template <typename Isa, typename Element>
void attend_quantized_elements(const AttentionProblem& problem, const AttentionCall& call) {
    const Int8Tiling tiling = tile_int8<Isa>(problem);
    auto* packed = reinterpret_cast<std::int32_t*>(call.workspace);
    auto* means = reinterpret_cast<float*>(packed + tiling.group * tiling.map_size);
    std::int32_t* scratch = packed + tiling.group * tiling.map_size + centroid_numbers(problem);
    for (std::int64_t first_map = 0; first_map < problem.kv_maps(); first_map += tiling.group) {
        const KeyMaps maps = {first_map, smaller(tiling.group, problem.kv_maps() - first_map)};
        parallel_for(maps.count * tiling.key_groups, [&](std::int64_t task, int) {
            const std::int64_t local = task / tiling.key_groups, map = first_map + local;
            const PackedMap of = packed_map(problem, call, tiling, map, packed + local * tiling.map_size);
            const std::int64_t keys = task % tiling.key_groups, first = keys * kGroupKeys;
            pack_quantized_keys<Isa, Element>(problem, call, of, map, keys);
            pack_quantized_values<Isa, Element>(problem, call, of, map, keys);
            find_centroids<Element>(problem, call, {map, first, smaller(first + kGroupKeys, problem.k_len)},
                                    means);
        });
        if (problem.centroids) pack_quantized_centroids<Isa>(problem, call, tiling, maps, means);
        parallel_for(maps.count * problem.group() * tiling.tiles, [&](std::int64_t task, int worker) {
            const auto [map, local] = query_task(problem, maps, task / tiling.tiles);
            const auto [block, first, last] = tiling.rows_of(task, problem.q_len);
            if (first >= last) return;
            QuantizedTile tile = make_tile<Isa>(problem, tiling, scratch + worker * tiling.worker_size);
            tile.rows = last - first;
            tile.map = packed_map(problem, call, tiling, first_map + local, packed + local * tiling.map_size);
            compute_rows<Isa, Element>(problem, call, tile, groups_of(problem, call, tiling, map, block),
                                       {map, first_map + local, first});
        });
    }
}

/// As AttentionKernel::run.
template <typename Isa>
void attend_quantized(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    if (problem.dtype == DType::f32) {
        attend_quantized_elements<Isa, float>(problem, call);
    } else {
        attend_quantized_elements<Isa, Bf16Bits>(problem, call);
    }
}

/// As AttentionKernel::workspace_bytes.
template <typename Isa>
std::size_t attend_quantized_workspace(const AttentionProblem& problem) {
    const Int8Tiling tiling = tile_int8<Isa>(problem);
    return static_cast<std::size_t>(tiling.group * tiling.map_size + centroid_numbers(problem) +
                                    tiling.worker_size * num_threads()) *
           4;
}

}  // namespace
}  // namespace aerogel
