// The centroids of skipped blocks of keys as every CPU level finds them, and as keys of a problem of their
// own, so that kernels pack them as they pack keys. Plain loops over the channels of a row, which the
// compiler turns into vectors of the level; the bits are the same at every level. Included by sources built
// for one CPU level, so everything is local to the including file.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/attention_tiling.h"
#include "kernels/cpu/bf16_bits.h"

namespace aerogel {
namespace {

inline std::int64_t centroids_of(const AttentionProblem& problem) {
    return problem.centroids ? problem.k_blocks() : 0;
}

/// Numbers that find_centroids() writes, in whole cache lines of floats.
inline std::int64_t centroid_numbers(const AttentionProblem& problem) {
    return round_up(problem.kv_maps() * 2 * centroids_of(problem) * problem.head_dim, kPanel);
}

/// Keys first..last-1 of one map.
struct SomeKeys {
    std::int64_t map, first, last;
};

/// The means of the blocks that begin among these keys, of k and of v, into [kv_maps][k, then v][blocks]
/// [head_dim], as floats or rounded to bfloat16. Whoever packs the keys calls it: then they come from far
/// away once.
template <typename Element, typename Out>
void find_centroids(const AttentionProblem& problem, const AttentionCall& call, const SomeKeys& keys,
                    Out* out) {
    constexpr std::int64_t kMostChannels = 256;
    if (!problem.centroids) return;
    const std::int64_t d = problem.head_dim, blocks = centroids_of(problem);
    const auto block_at = [&](std::int64_t key) { return (key + problem.block_k - 1) / problem.block_k; };
    for (std::int64_t side = 2 * keys.map; side < 2 * keys.map + 2; ++side) {
        const Rows rows = side % 2 == 0
                              ? rows_of<const Element>(call.k, call.k_strides, problem.kv_heads, keys.map)
                              : rows_of<const Element>(call.v, call.v_strides, problem.kv_heads, keys.map);
        for (std::int64_t block = block_at(keys.first); block < block_at(keys.last); ++block) {
            alignas(64) float sums[kMostChannels] = {};
            const std::int64_t first = block * problem.block_k, count = problem.keys_of_block(block);
            const float part = 1.0F / static_cast<float>(count);
            for (std::int64_t key = first; key < first + count; ++key) {
                const Element* x = rows.at(key);
                for (std::int64_t c = 0; c < d; ++c) sums[c] += part * float_of(x[c]);
            }
            for (std::int64_t c = 0; c < d; ++c) put_float(out + (side * blocks + block) * d + c, sums[c]);
        }
    }
}

/// The problem whose keys are the centroids, numbers of `dtype`.
inline AttentionProblem centroid_problem(const AttentionProblem& problem, DType dtype) {
    AttentionProblem of = problem;
    of.k_len = centroids_of(problem);
    of.dtype = dtype;
    of.masked = of.centroids = false;
    return of;
}

/// The call of that problem, whose keys and values find_centroids() has written.
template <typename Out>
AttentionCall centroid_call(const AttentionProblem& problem, const AttentionCall& call, const Out* means) {
    const std::int64_t size = centroids_of(problem) * problem.head_dim;
    AttentionCall of = call;
    of.k = means;
    of.v = means + size;
    of.k_strides = of.v_strides = {problem.kv_heads * 2 * size, 2 * size, problem.head_dim};
    return of;
}

/// What the scores of centroids in a row of query blocks get, times `factor`: the log of their keys, or -inf
/// for blocks that are kept.
inline void centroid_bias(const AttentionProblem& problem, const KeyCursor& cursor, float factor,
                          float* bias) {
    const std::int64_t blocks = centroids_of(problem);
    for (std::int64_t block = 0; block < blocks; ++block)
        bias[block] = __builtin_logf(static_cast<float>(problem.keys_of_block(block))) * factor;
    for (const std::int32_t* column = cursor.column; column != cursor.end; ++column)
        bias[*column] = -__builtin_inff();
}

/// Scores of rows that are kStride floats apart, of centroids first..last-1.
template <std::int64_t kStride>
void add_centroid_bias(float* scores, std::int64_t rows, const float* bias, std::int64_t count) {
    for (std::int64_t row = 0; row < rows; ++row, scores += kStride)
        for (std::int64_t i = 0; i < count; ++i)  // not a sum for kept blocks, whose mean may be infinite
            scores[i] = bias[i] < 0.0F ? bias[i] : scores[i] + bias[i];
}

}  // namespace
}  // namespace aerogel
