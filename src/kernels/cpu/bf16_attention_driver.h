// bfloat16 attention from strided arrays to strided output: packs keys and values of a group of maps as tiles
// of pairs, then runs tiles of queries through bf16_attention_tiles.h. The packed form is that of AMX, which
// vdpbf16ps reads as it is: 16 columns of pairs are one vector.
#pragma once

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "kernels/cpu/bf16_attention_tiles.h"

namespace aerogel {
namespace {

/// Sizes of one call, in bytes but for the counts. `Products` has kTaskRows, the most rows of a task, and
/// kOverlaps: the scores of 32 rows are found during the softmax of 32 others.
template <typename Products>
struct Bf16Plan : QueryTiles {
    static constexpr std::int64_t kScores = (Products::kOverlaps ? 2 : 1) * kBlock * kScoreStride;

    explicit Bf16Plan(const AttentionProblem& problem)
        : QueryTiles(),
          d(round_up(problem.head_dim, kDepth)),
          panels((problem.k_len + kBlock - 1) / kBlock),
          centroids(centroids_of(problem)),
          side((panels + (centroids + kBlock - 1) / kBlock) * kBlock * d * 2),
          means(centroid_numbers(problem) * 2) {
        constexpr std::int64_t kGroupBytes = std::int64_t{32} << 20;
        group = kGroupBytes / (2 * side + 1);
        group = group < 1 ? 1 : smaller(group, problem.kv_maps());
        cut_queries(problem, Products::kTaskRows, kBlock);
        // q, weights, edges; scores, o, sums, largest, bias of centroids.
        worker = (Products::kTaskRows * d + kBlock * kWeightStride + kTileKeys * d) * 2 +
                 (kScores + Products::kTaskRows * (d + kHalf + 1) + round_up(centroids, kPanel)) * 4;
    }

    std::byte* means_at(const AttentionCall& call) const { return call.workspace + 2 * group * side; }

    std::int64_t d, panels, centroids;
    std::int64_t side;    ///< the packed keys, or values, of a map, with the centroids behind them
    std::int64_t means;   ///< the centroids of all maps
    std::int64_t group;   ///< maps packed at a time
    std::int64_t worker;  ///< scratch per thread
};

/// 16 keys from `first` on, as tiles of pairs along d; keys past k_len are zeros.
inline void pack_keys(const Rows<const Bf16Bits>& k, const AttentionProblem& problem, std::int64_t first,
                      Bf16Bits* out) {
    for (std::int64_t key = first + kHalf; key < first + kBlock; ++key)
        k.prefetch(key, problem.k_len, problem.head_dim);
    for (std::int64_t d = 0; d < problem.head_dim; d += kDepth, out += kTileSize) {
        const std::int64_t width = smaller(kDepth, problem.head_dim - d);
        const auto lanes = static_cast<__mmask32>((std::uint64_t{1} << width) - 1);
        __m512 rows[kHalf];
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kHalf; ++i)
            rows[i] = first + i < problem.k_len
                          ? _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(lanes, k.at(first + i) + d))
                          : Avx512::zero();
        Avx512::transpose(rows);
#pragma GCC unroll 16
        for (std::int64_t i = 0; i < kHalf; ++i)
            Avx512::store(reinterpret_cast<float*>(out + i * kDepth), rows[i]);
    }
}

/// 32 keys from `first` on, as tiles of pairs of keys; those past k_len are zeros.
inline void pack_values(const Rows<const Bf16Bits>& v, const AttentionProblem& problem, std::int64_t first,
                        Bf16Bits* out) {
    for (std::int64_t pair = 0; pair < kHalf; ++pair) {
        const std::int64_t key = first + 2 * pair;
        v.prefetch(key + kAhead, problem.k_len, problem.head_dim);
        v.prefetch(key + kAhead + 1, problem.k_len, problem.head_dim);
        for (std::int64_t d = 0; d < round_up(problem.head_dim, kDepth); d += kHalf) {
            const std::int64_t left = problem.head_dim - d;
            const __mmask16 lanes = Avx512::lanes_below(left < 0 ? 0 : smaller(left, kHalf));
            __m512i pairs = _mm512_setzero_si512();
            if (key < problem.k_len)
                pairs = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, v.at(key) + d));
            if (key + 1 < problem.k_len) {
                const __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, v.at(key + 1) + d));
                pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(odd, 16));
            }
            _mm512_storeu_si512(out + (d / kHalf * kHalf + pair) * kDepth, pairs);
        }
    }
}

inline void load_queries(const Rows<const Bf16Bits>& q, const AttentionProblem& problem, std::int64_t first,
                         const Bf16Tile& tile) {
    for (std::int64_t row = 0; row < round_up(tile.rows, kHalf); ++row) {
        q.prefetch(first + row + kAhead, first + tile.rows, problem.head_dim);
        for (std::int64_t d = 0; d < tile.d; d += kDepth) {
            const std::int64_t left = row < tile.rows ? problem.head_dim - d : 0;
            const std::int64_t width = left < 0 ? 0 : smaller(left, kDepth);
            const auto lanes = static_cast<__mmask32>((std::uint64_t{1} << width) - 1);
            const __m512i values =
                width == 0 ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi16(lanes, q.at(first + row) + d);
            _mm512_storeu_si512(tile.q + row * tile.d + d, values);
        }
    }
}

inline float weight_sum(const Bf16Tile& tile, std::int64_t row) {
    return Avx512::reduce_add(Avx512::load(tile.sums + row * kHalf));
}

/// The first `empty` rows saw no key.
inline void store_lse(const Bf16Tile& tile, std::int64_t empty, const Rows<float>& lse, std::int64_t first) {
    for (std::int64_t row = 0; row < tile.rows; ++row)
        *lse.at(first + row) = log_sum_exp(row < empty, tile.largest[row], weight_sum(tile, row));
}

/// Divides by the sums of weights; the first `empty` rows, which saw no key, are zeros.
inline void store_output(const Bf16Tile& tile, std::int64_t head_dim, std::int64_t empty,
                         const Rows<Bf16Bits>& o, std::int64_t first) {
    for (std::int64_t row = 0; row < tile.rows; ++row) {
        Bf16Bits* to = o.at(first + row);
        o.prefetch(first + row + kAhead, first + tile.rows, head_dim);
        const __m512 factor = Avx512::set1(1.0F / weight_sum(tile, row));
        for (std::int64_t d = 0; d < head_dim; d += kHalf)
            Avx512::store_part(
                to + d, smaller(kHalf, head_dim - d),
                row < empty ? Avx512::zero() : Avx512::mul(Avx512::load(tile.o + row * tile.d + d), factor));
    }
}

/// All rows of a tile, 32 at a time; the scores of the next ones are found between rows of the softmax.
template <typename Products>
void attend_rows_in_turn(const Bf16Tile& tile, const KeyTile& keys, const ScorePanels& scores,
                         const ValuePanels& values) {
    Bf16Tile some = tile.block(0);
    score_tile<Products>(some, keys, scores);
    for (std::int64_t row = 0; row < tile.rows; row += kBlock) {
        const bool last = row + kBlock >= tile.rows;
        Bf16Tile next = last ? some : tile.block(row + kBlock);
        next.scores = some.scores == tile.scores ? tile.scores + kBlock * kScoreStride : tile.scores;
        for (std::int64_t p = 0; p < scores.count; ++p) {
            if (!last) scores.multiply<Products>(next, p);
            softmax_rows(some, keys.columns, some.rows * p / scores.count,
                         some.rows * (p + 1) / scores.count);
        }
        if (!last) finish_scores(next, keys);
        Products::add_values(some, values);
        some = next;
    }
}

/// Returns how many rows saw no key; these come first.
template <typename Products>
std::int64_t compute_tile(const Bf16Tile& tile, KeyCursor& cursor) {
    constexpr float kLowest = -3.0e38F;  // finite, so that scores of -inf get the weight 0
    for (std::int64_t i = 0; i < round_up(tile.rows, kHalf) * tile.d; ++i) tile.o[i] = 0.0F;
    for (std::int64_t i = 0; i < tile.rows * kHalf; ++i) tile.sums[i] = 0.0F;
    for (std::int64_t i = 0; i < tile.rows; ++i) tile.largest[i] = kLowest;
    std::int64_t empty = tile.rows;
    KeyTile keys;
    while (cursor.next<kBlock>(keys)) {
        const ValuePanels panels(tile, keys);
        const ScorePanels scores(tile, keys);
        if constexpr (Products::kOverlaps) {
            attend_rows_in_turn<Products>(tile, keys, scores, panels);
        } else {
            for (std::int64_t row = 0; row < tile.rows; row += kBlock) {
                const Bf16Tile some = tile.block(row);  // their scores stay in the first cache
                score_tile<Products>(some, keys, scores);
                softmax_rows(some, keys.columns, 0, some.rows);
                Products::add_values(some, panels);
            }
        }
        const std::int64_t unseen = keys.segments[0].first - tile.seen + 1;
        empty = smaller(empty, unseen < 0 ? 0 : unseen);
    }
    return empty;
}

template <typename Products>
Bf16Tile make_tile(const Bf16Plan<Products>& plan, std::byte* scratch) {
    Bf16Tile tile;
    tile.d = plan.d;
    tile.scores = reinterpret_cast<float*>(scratch);
    tile.o = tile.scores + plan.kScores;
    tile.sums = tile.o + Products::kTaskRows * plan.d;
    tile.largest = tile.sums + Products::kTaskRows * kHalf;
    tile.q = reinterpret_cast<Bf16Bits*>(tile.largest + Products::kTaskRows);
    tile.weights = tile.q + Products::kTaskRows * plan.d;
    tile.edges = tile.weights + kBlock * kWeightStride;
    return tile;
}

template <typename Products>
void pack_group(const AttentionProblem& problem, const AttentionCall& call, const Bf16Plan<Products>& plan,
                const KeyMaps& maps) {
    parallel_for(maps.count * plan.panels, [&](std::int64_t task, int) {
        const std::int64_t local = task / plan.panels, map = maps.first + local;
        const std::int64_t key = task % plan.panels * kBlock;
        auto* keys = reinterpret_cast<Bf16Bits*>(call.workspace + 2 * local * plan.side) + key * plan.d;
        const Rows k = rows_of<const Bf16Bits>(call.k, call.k_strides, problem.kv_heads, map);
        pack_keys(k, problem, key, keys);
        pack_keys(k, problem, key + kHalf, keys + kHalf * plan.d);
        pack_values(rows_of<const Bf16Bits>(call.v, call.v_strides, problem.kv_heads, map), problem, key,
                    keys + plan.side / 2);
        find_centroids<Bf16Bits>(problem, call, {map, key, smaller(key + kBlock, problem.k_len)},
                                 reinterpret_cast<Bf16Bits*>(plan.means_at(call)));
    });
}

/// Centroids behind the keys of the group.
template <typename Products>
void pack_centroids(const AttentionProblem& problem, const AttentionCall& call,
                    const Bf16Plan<Products>& plan, const KeyMaps& maps) {
    const AttentionProblem of = centroid_problem(problem, DType::bf16);
    const AttentionCall from =
        centroid_call(problem, call, reinterpret_cast<const Bf16Bits*>(plan.means_at(call)));
    parallel_for(maps.count, [&](std::int64_t local, int) {
        const std::int64_t map = maps.first + local;
        auto* keys = reinterpret_cast<Bf16Bits*>(call.workspace + 2 * local * plan.side) +
                     plan.panels * kBlock * plan.d;
        const Rows k = rows_of<const Bf16Bits>(from.k, from.k_strides, of.kv_heads, map);
        const Rows v = rows_of<const Bf16Bits>(from.v, from.v_strides, of.kv_heads, map);
        for (std::int64_t key = 0; key < of.k_len; key += kBlock) {
            pack_keys(k, of, key, keys + key * plan.d);
            pack_keys(k, of, key + kHalf, keys + (key + kHalf) * plan.d);
            pack_values(v, of, key, keys + key * plan.d + plan.side / 2);
        }
    });
}

template <typename Products>
void compute_group(const AttentionProblem& problem, const AttentionCall& call, const Bf16Plan<Products>& plan,
                   const KeyMaps& maps) {
    constexpr float kLog2E = 1.44269504F;
    std::byte* scratch = plan.means_at(call) + plan.means;
    parallel_for(maps.count * problem.group() * plan.tiles, [&](std::int64_t task, int worker) {
        const auto [map, packed] = query_task(problem, maps, task / plan.tiles);
        const auto [block, first, last] = plan.rows_of(task, problem.q_len);
        if (first >= last) return;
        Bf16Tile tile = make_tile(plan, scratch + worker * plan.worker);
        tile.rows = last - first;
        tile.head_dim = problem.head_dim;
        tile.k = reinterpret_cast<const Bf16Bits*>(call.workspace + 2 * packed * plan.side);
        tile.v = tile.k + plan.side / 2;
        tile.factor = call.scale * kLog2E;
        load_queries(rows_of<const Bf16Bits>(call.q, call.q_strides, problem.heads, map), problem, first,
                     tile);
        KeyCursor cursor = keys_of(problem, call.mask, map, block);
        tile.seen = cursor.hide_later(problem, first, tile.rows);
        if (problem.centroids) {
            tile.centroid = cursor.centroid = plan.panels * kBlock;
            cursor.centroids = plan.centroids;
            auto* bias = reinterpret_cast<float*>(tile.edges + kTileKeys * plan.d);
            centroid_bias(problem, cursor, 1.0F / call.scale, bias);
            tile.centroid_bias = bias;
        }
        Products::begin();
        const std::int64_t empty = compute_tile<Products>(tile, cursor);
        Products::end();
        store_output(tile, problem.head_dim, empty,
                     rows_of<Bf16Bits>(call.o, call.o_strides, problem.heads, map), first);
        if (problem.wants_lse) store_lse(tile, empty, lse_of(problem, call, map), first);
    });
}

/// As AttentionKernel::workspace_bytes.
template <typename Products>
std::size_t bf16_attention_workspace(const AttentionProblem& problem) {
    const Bf16Plan<Products> plan(problem);
    return static_cast<std::size_t>(2 * plan.group * plan.side + plan.means + plan.worker * num_threads());
}

/// As AttentionKernel::run.
template <typename Products>
void bf16_attention(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const Bf16Plan<Products> plan(problem);
    for (std::int64_t map = 0; map < problem.kv_maps(); map += plan.group) {
        const KeyMaps maps = {map, smaller(plan.group, problem.kv_maps() - map)};
        pack_group(problem, call, plan, maps);
        if (problem.centroids) pack_centroids(problem, call, plan, maps);
        compute_group<Products>(problem, call, plan, maps);
    }
}

}  // namespace
}  // namespace aerogel
