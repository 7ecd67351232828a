// Attention from strided arrays to strided output: packs keys and values of a group of maps, then runs the
// query tiles through attention_tiles.h. `Isa` as there.
#pragma once

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/bf16_bits.h"
#include "kernels/cpu/centroids.h"

namespace aerogel {
namespace {

/// Keys first..last-1 (whole panels) as [panel][head_dim][16]; keys past k_len become zeros.
template <typename Isa, typename Element>
void pack_keys(const Rows<const Element>& k, const AttentionProblem& problem, std::int64_t first,
               float* out) {
    using V = typename Isa::V;
    constexpr std::int64_t kLanes = Isa::kLanes;
    for (std::int64_t half = 0; half < kPanel; half += kLanes) {
        const Element* keys[kLanes];
        for (std::int64_t i = 0; i < kLanes; ++i) {
            const std::int64_t key = first + half + i;
            keys[i] = key < problem.k_len ? k.at(key) : nullptr;
        }
        for (std::int64_t d = 0; d < problem.head_dim; d += kLanes) {
            const std::int64_t width = smaller(kLanes, problem.head_dim - d);
            V rows[kLanes];
#pragma GCC unroll 16
            for (std::int64_t i = 0; i < kLanes; ++i)
                rows[i] = keys[i] != nullptr ? Isa::load_part(keys[i] + d, width) : Isa::zero();
            Isa::transpose(rows);
            float* to = out + d * kPanel + half;
#pragma GCC unroll 16
            for (std::int64_t i = 0; i < kLanes; ++i)
                if (i < width) Isa::store(to + i * kPanel, rows[i]);
        }
    }
}

/// Where the values of a map are packed: row i of the array is row `first` + i of all `keys`.
struct ValuePanels {
    float* out;
    std::int64_t first, keys;
};

/// Values first..last-1 as panels of two vectors (the last panel: of one, when one is left).
template <typename Isa, typename Element>
void pack_values(const Rows<const Element>& v, std::int64_t head_dim, Segment keys, const ValuePanels& to) {
    constexpr std::int64_t kLanes = Isa::kLanes;
    const std::int64_t d_padded = round_up(head_dim, kLanes);
    for (std::int64_t d = 0; d < d_padded; d += kLanes) {
        const std::int64_t panel = round_down(d, 2 * kLanes);
        const std::int64_t panel_width = smaller(2 * kLanes, d_padded - panel);
        const std::int64_t width = smaller(kLanes, head_dim - d);
        float* out = to.out + panel * to.keys + (d - panel) + to.first * panel_width;
        for (std::int64_t key = keys.first; key < keys.last; ++key)
            Isa::store(out + key * panel_width, Isa::load_part(v.at(key) + d, width));
    }
}

template <typename Isa, typename Element>
void load_queries(const Rows<const Element>& q, std::int64_t first_query, const Tile& tile) {
    const std::int64_t groups = group_count<Isa>(tile.rows);
    alignas(64) float row_values[round_up(256, kPanel)];
    for (std::int64_t g = 0; g < groups; ++g) {
        const std::int64_t first = tile.rows * g / groups;
        const std::int64_t rows = tile.rows * (g + 1) / groups - first;
        for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t row = first_query + first + r;
            q.prefetch(row + kAhead, first_query + tile.rows, tile.head_dim);
            const Element* query = q.at(row);
            for (std::int64_t d = 0; d < tile.head_dim; d += Isa::kLanes)
                Isa::store(row_values + d,
                           Isa::load_part(query + d, smaller(Isa::kLanes, tile.head_dim - d)));
            float* to = tile.q + first * tile.head_dim + r;
            for (std::int64_t d = 0; d < tile.head_dim; ++d) to[d * rows] = row_values[d];
        }
    }
}

/// The sum of weights of a row.
template <typename Isa>
float weight_sum(const Tile& tile, std::int64_t row) {
    typename Isa::V sum = Isa::load(tile.sums + row * kPanel);
    for (std::int64_t j = Isa::kLanes; j < kPanel; j += Isa::kLanes)
        sum = Isa::add(sum, Isa::load(tile.sums + row * kPanel + j));
    return Isa::reduce_add(sum);
}

/// The first `empty` rows saw no key.
template <typename Isa>
void store_lse(const Tile& tile, std::int64_t empty, const Rows<float>& lse, std::int64_t first) {
    for (std::int64_t row = 0; row < tile.rows; ++row)
        *lse.at(first + row) = log_sum_exp(row < empty, tile.largest[row], weight_sum<Isa>(tile, row));
}

/// Divides by the sums of weights; the first `empty` rows, which saw no key, are zeros.
template <typename Isa, typename Element>
void store_output(const Tile& tile, std::int64_t empty, const Rows<Element>& o, std::int64_t first) {
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        o.prefetch(first + row + kAhead, first + tile.rows, tile.head_dim);
        Element* to = o.at(first + row);
        const typename Isa::V factor = Isa::set1(1.0F / weight_sum<Isa>(tile, row));
        for (std::int64_t d = 0; d < tile.head_dim; d += Isa::kLanes) {
            const typename Isa::V o_row = Isa::load(tile.o + row * tile.d_padded + d);
            Isa::store_part(to + d, smaller(Isa::kLanes, tile.head_dim - d),
                            row < empty ? Isa::zero() : Isa::mul(o_row, factor));
        }
    }
}

/// Returns how many rows saw no key; these come first.
template <typename Isa>
std::int64_t compute_tile(Tile& tile, KeyCursor& cursor, const TileBias& bias) {
    constexpr float kLowest = -3.0e38F;  // finite, so that scores of -inf get the weight 0
    for (std::int64_t i = 0; i < tile.rows * tile.d_padded; ++i) tile.o[i] = 0.0F;
    for (std::int64_t i = 0; i < tile.rows * kPanel; ++i) tile.sums[i] = 0.0F;
    for (std::int64_t i = 0; i < tile.rows; ++i) tile.largest[i] = kLowest;
    std::int64_t empty = tile.rows;
    KeyTile keys;
    while (cursor.next(keys)) {
        score_tile<Isa>(tile, keys);
        bias_tile<Isa>(tile, keys, bias);
        for (int s = 0; tile.centroid_bias != nullptr && s < keys.count; ++s) {
            const Segment& segment = keys.segments[s];
            if (segment.first >= tile.centroid)
                add_centroid_bias<kTileKeys>(tile.scores + segment.column, tile.rows,
                                             tile.centroid_bias + segment.first - tile.centroid,
                                             segment.last - segment.first);
        }
        hide_later_keys<kTileKeys>({tile.scores, tile.rows, tile.seen}, keys);
        softmax_tile<Isa>(tile, keys.columns);
        value_tile<Isa>(tile, keys);
        empty =
            smaller(empty, keys.segments[0].first < tile.seen ? 0 : keys.segments[0].first - tile.seen + 1);
    }
    return empty;
}

inline TileBias bias_of(const AttentionProblem& problem, const AttentionCall& call, std::int64_t map,
                        std::int64_t first_row) {
    if (!problem.biased) return {nullptr, 0.0F};
    const float* head = call.bias + map % problem.heads * problem.distances();
    return {head + problem.q_len - 1 - first_row, 1.0F / call.scale};
}

/// One group of maps, packed at `keys` and `values`.
struct Group {
    KeyMaps maps;
    float* keys;
    float* values;
    float* scratch;
    float* centroids;  ///< of all maps
};

template <typename Isa, typename Element>
void pack_group(const AttentionProblem& problem, const AttentionCall& call, const AttentionTiling& tiling,
                const Group& group) {
    const std::int64_t portions = (problem.k_len + kPackKeys - 1) / kPackKeys;
    parallel_for(group.maps.count * portions, [&](std::int64_t task, int) {
        const std::int64_t local = task / portions;
        const std::int64_t map = group.maps.first + local;
        const Rows k = rows_of<const Element>(call.k, call.k_strides, problem.kv_heads, map);
        const Rows v = rows_of<const Element>(call.v, call.v_strides, problem.kv_heads, map);
        const std::int64_t first = task % portions * kPackKeys;
        const std::int64_t last = smaller(first + kPackKeys, problem.k_len);
        for (std::int64_t key = first; key < last; key += kPanel)
            pack_keys<Isa>(k, problem, key, group.keys + local * tiling.k_floats + key * problem.head_dim);
        pack_values<Isa>(v, problem.head_dim, {first, last, 0},
                         {group.values + local * tiling.v_floats, 0, tiling.keys});
        find_centroids<Element>(problem, call, {map, first, last}, group.centroids);
    });
}

/// Centroids behind the keys of the group.
template <typename Isa>
void pack_centroids(const AttentionProblem& problem, const AttentionCall& call, const AttentionTiling& tiling,
                    const Group& group) {
    const AttentionProblem of = centroid_problem(problem, DType::f32);
    const AttentionCall from = centroid_call(problem, call, group.centroids);
    parallel_for(group.maps.count, [&](std::int64_t local, int) {
        const std::int64_t map = group.maps.first + local;
        const Rows k = rows_of<const float>(from.k, from.k_strides, of.kv_heads, map);
        const Rows v = rows_of<const float>(from.v, from.v_strides, of.kv_heads, map);
        float* keys = group.keys + local * tiling.k_floats + tiling.k_padded * of.head_dim;
        for (std::int64_t key = 0; key < of.k_len; key += kPanel)
            pack_keys<Isa>(k, of, key, keys + key * of.head_dim);
        pack_values<Isa>(v, of.head_dim, {0, of.k_len, 0},
                         {group.values + local * tiling.v_floats, tiling.k_padded, tiling.keys});
    });
}

template <typename Isa, typename Element>
void compute_group(const AttentionProblem& problem, const AttentionCall& call, const AttentionTiling& tiling,
                   const Group& group) {
    constexpr float kLog2E = 1.44269504F;
    parallel_for(group.maps.count * problem.group() * tiling.tiles, [&](std::int64_t task, int worker) {
        const auto [map, packed] = query_task(problem, group.maps, task / tiling.tiles);
        const auto [block, first, last] = tiling.rows_of(task, problem.q_len);
        if (first >= last) return;
        Tile tile;
        tile.rows = last - first;
        tile.head_dim = problem.head_dim;
        tile.d_padded = tiling.d_padded;
        tile.k = group.keys + packed * tiling.k_floats;
        tile.v = group.values + packed * tiling.v_floats;
        tile.keys = tiling.keys;
        tile.scores = group.scratch + worker * tiling.worker_floats;
        tile.sums = tile.scores + kMaxTileRows * kTileKeys;
        tile.o = tile.sums + kMaxTileRows * kPanel;
        tile.q = tile.o + kMaxTileRows * tiling.d_padded;
        tile.largest = tile.q + kMaxTileRows * round_up(problem.head_dim, kPanel);
        tile.rescale = tile.largest + kMaxTileRows;
        tile.factor = call.scale * kLog2E;
        load_queries<Isa>(rows_of<const Element>(call.q, call.q_strides, problem.heads, map), first, tile);
        KeyCursor cursor = keys_of(problem, call.mask, map, block);
        tile.seen = cursor.hide_later(problem, first, tile.rows);
        if (problem.centroids) {
            tile.centroid = cursor.centroid = tiling.k_padded;
            cursor.centroids = tiling.keys - tiling.k_padded;
            float* bias = tile.rescale + kMaxTileRows;
            centroid_bias(problem, cursor, 1.0F / call.scale, bias);
            tile.centroid_bias = bias;
        }
        const std::int64_t empty = compute_tile<Isa>(tile, cursor, bias_of(problem, call, map, first));
        store_output<Isa>(tile, empty, rows_of<Element>(call.o, call.o_strides, problem.heads, map), first);
        if (problem.wants_lse) store_lse<Isa>(tile, empty, lse_of(problem, call, map), first);
    });
}

template <typename Isa, typename Element>
void attend_elements(const AttentionProblem& problem, const AttentionCall& call) {
    const AttentionTiling tiling = tile_attention(problem, Isa::kLanes);
    Group group;
    group.keys = reinterpret_cast<float*>(call.workspace);
    group.values = group.keys + tiling.group * tiling.k_floats;
    group.centroids = group.values + tiling.group * tiling.v_floats;
    group.scratch = group.centroids + centroid_numbers(problem);
    for (std::int64_t first = 0; first < problem.kv_maps(); first += tiling.group) {
        group.maps = {first, smaller(tiling.group, problem.kv_maps() - first)};
        pack_group<Isa, Element>(problem, call, tiling, group);
        if (problem.centroids) pack_centroids<Isa>(problem, call, tiling, group);
        compute_group<Isa, Element>(problem, call, tiling, group);
    }
}

/// As AttentionKernel::run.
template <typename Isa>
void attend(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    if (problem.dtype == DType::f32) {
        attend_elements<Isa, float>(problem, call);
    } else {
        attend_elements<Isa, Bf16Bits>(problem, call);
    }
}

/// As AttentionKernel::workspace_bytes.
template <typename Isa>
std::size_t attend_workspace(const AttentionProblem& problem) {
    const AttentionTiling tiling = tile_attention(problem, Isa::kLanes);
    const std::int64_t floats = tiling.group * (tiling.k_floats + tiling.v_floats) +
                                centroid_numbers(problem) + tiling.worker_floats * num_threads();
    return static_cast<std::size_t>(floats) * sizeof(float);
}

}  // namespace
}  // namespace aerogel
