// Int8 attention over the problems of tests/problems/attention.txt: scales of several kinds, the exact result
// of the arithmetic that kernels/attention.h defines, and an error bound for every output element.
#pragma once

#include "kernels/attention_cases.h"

namespace aerogel::testing {

/// per_token: a scale per token, means of k and v taken off. blocks: a scale per 128 and 256 tokens. fixed:
/// one scale and offset per map, so narrow that values clamp. bytes: whole numbers -128..127, mostly the
/// extremes.
enum class Scales : std::uint8_t { per_token, blocks, fixed, bytes };

struct QuantizedData {
    /// Overwrites the arrays for Scales::bytes.
    QuantizedData(AttentionData& data, Scales kind);

    AttentionData& data;
    AttentionProblem problem;  ///< the case's, in the format int8
    float scale = 1.0F;
    double largest_weight = kWideWeight;
    std::vector<float> q_scale, k_scale, v_scale, q_offset, k_offset, v_offset, k_mean, v_mean, v_shift;
    bool on_the_way = false;
    std::vector<double> q_integers, k_integers, v_integers;  ///< [maps][tokens][head_dim]
    std::vector<double> exact, bound;                        ///< [maps][q_len][head_dim]
    std::vector<double> lse, lse_bound;                      ///< [maps][q_len]

    AttentionCall call();
    /// Recomputes the integers, `exact` and `bound`.
    void solve();
    /// The same for a kernel with these weights.
    void solve(const AttentionKernel& kernel);
};

/// Runs one kernel with a poisoned workspace; reports writes behind it as a test failure.
PaddedArray run_attention(const AttentionKernel& kernel, QuantizedData& data);
/// Empty, or the first element of `o` that is out of bounds.
std::string compare(const QuantizedData& data, const PaddedArray& o);
std::string compare_lse(const QuantizedData& data, const std::vector<float>& lse);

}  // namespace aerogel::testing
