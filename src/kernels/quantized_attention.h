// Kernels of attention in int8: q, k and v become integers when the call arrives, both matrix products are
// exact integer products, and the softmax between them is float. The arithmetic, per batch and head (a map):
//
// - q_q[i,c] = clamp(rint(q / q_scale[i] + q_offset), -128, 127), the same for k - k_mean and v - v_mean
// - s[i,j] = sum_c (q_q - q_offset) k_q (int32), x[i,j] = s k_scale[j]
// - t[i,g] = max_j x over the kept keys of group g
// - p[i,j] = rint(w * 2^(f (x - t[i,g]))), f = q_scale[i] scale log2(e); 0 for keys that are not kept. The
// power
//   may be off by 2^-18 of itself. w is 255, or 128 where two products must fit int16 (AVX2)
// - a[i,g,c] = sum_j p v_q (int32)
// - o[i,c] = sum_g F a v_scale[g,c] / sum_g F sum_j p + v_shift[c], F = 2^(f t[i,g])
//
// Groups are kQuantizedKeyGroup keys, from key 0 of the map on. The offset of k adds the same to all scores
// of a query, so it only matters for clamping, as does the mean of k: softmax does not change. Weights are
// relative to the largest of their own group, hence groups far from the row's maximum keep their bits too.
// After SageAttention (Zhang et al. 2024) and SageAttention2, with scales as fine as the CPU gives for free.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "kernels/attention.h"

namespace aerogel {

/// Keys that share one scale per channel of v, and the largest weight of a query.
constexpr std::int64_t kQuantizedKeyGroup = 64;

/// The largest weights there are.
constexpr float kWideWeight = 255.0F, kNarrowWeight = 128.0F;

/// Where the scales that find_scales() takes from the data go; arrays as in QuantizedAttentionArgs.
struct ScaleSearch {
    std::int64_t q_tokens = 1, k_tokens = 1;  ///< per scale of q and of k
    float* q_scale = nullptr;
    float* k_scale = nullptr;
    float* v_scale = nullptr;
    float* k_mean = nullptr;  ///< null: k keeps its mean
    float* v_mean = nullptr;
    double* sums = nullptr;  ///< scratch: [maps, mean_portions(k_len), head_dim]
    /// run() gets this search too and reads all tokens anyway, so find_scales() may stop at the means and
    /// run() not read q_scale and k_scale; v_scale is where it puts those of v. Only with a scale per token:
    /// each task would have to find that of a whole block anew.
    bool on_the_way = false;
};

/// Arrays start at map 0; a map is one batch and head. A scale that is NaN makes NaN what depends on it: the
/// query's output, that of every query that sees the key, or the channel for every query that sees the group.
struct QuantizedAttentionArgs : AttentionArgs {
    const float* q_scale = nullptr;       ///< [maps, q_len], positive or NaN
    const float* k_scale = nullptr;       ///< [maps, k_len], positive or NaN
    const float* v_scale = nullptr;       ///< [maps, groups of keys, head_dim], positive or NaN
    const float* q_offset = nullptr;      ///< [maps], whole numbers -128..127; null = 0
    const float* k_offset = nullptr;      ///< [maps]; null = 0
    const float* v_offset = nullptr;      ///< [maps]; null = 0
    const float* k_mean = nullptr;        ///< [maps, head_dim]; null = 0
    const float* v_mean = nullptr;        ///< [maps, head_dim]; null = 0
    const float* v_shift = nullptr;       ///< [maps, head_dim], added to o at the end; null = 0
    const ScaleSearch* search = nullptr;  ///< how the scales were found; null: they were given
};

/// Tokens per partial sum of a mean, which fixes the order of the additions: in float32 over a few tokens, in
/// double over all of those.
constexpr std::int64_t kMeanTokens = 512, kFloatTokens = 8;
constexpr std::int64_t mean_portions(std::int64_t tokens) {
    return (tokens + kMeanTokens - 1) / kMeanTokens;
}

struct QuantizedAttentionKernel {
    std::string_view name;  ///< "cpu.avx2.int8_attention"
    float largest_weight;
    std::string (*why_not)(const AttentionProblem& problem);
    std::size_t (*workspace_bytes)(const AttentionProblem& problem);
    void (*run)(const AttentionProblem& problem, const QuantizedAttentionArgs& args) noexcept;
    /// Largest value / 127 per block of tokens of q and k and per channel and group of keys of v, after the
    /// means of v and, where asked for, of k; 1 where all are zeros, NaN where a value is not finite. `args`
    /// has q, k, v and their strides. The bits are the same for all kernels, and whether found here or by
    /// run().
    void (*find_scales)(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                        const ScaleSearch& search) noexcept;
};

}  // namespace aerogel
