// The rounding formats of attention: q, k and v in float32, rounded to what the format holds, then a float
// kernel. Every float kernel becomes a kernel of these formats so.
#pragma once

#include "kernels/attention.h"

namespace aerogel {

/// Rows [maps][tokens][head_dim] of float32, rounded in place. Where a value is not finite, all that share
/// its scale become NaN.
struct RoundedRows {
    float* data;
    std::int64_t maps, tokens, head_dim;

    float* row(std::int64_t map, std::int64_t token) const {
        return data + (map * tokens + token) * head_dim;
    }
};

/// Takes the mean over tokens off every channel of every map.
void subtract_means(const RoundedRows& x);
/// The same with the means of int8 (kernels/attention.h: kMeanTokens), so that int8_qk has its integers.
void subtract_int8_means(const RoundedRows& x);
/// E4M3 with scale max|x| / 448 per block of so many tokens and channels; to nearest, ties to even.
void round_fp8(const RoundedRows& x, std::int64_t block_tokens, std::int64_t block_channels);
/// The same with one scale for all channels.
void round_fp8(const RoundedRows& x, std::int64_t block_tokens);
/// round(x / scale) * scale with scale max|x| / 127 per block of so many tokens x head_dim; ties to even.
void round_int8(const RoundedRows& x, std::int64_t block_tokens);
/// E4M3 with scale max|x| / 448 per channel over all tokens.
void round_fp8_channels(const RoundedRows& x);

enum class MxElement : std::uint8_t { e4m3, e2m1 };
enum class MxAxis : std::uint8_t { channels, tokens };
/// Microscaling: blocks of 32 along the axis share 2^(floor(log2 max|x|) - emax), at least 2^-127, emax 8
/// (E4M3) or 2 (E2M1), or for E2M1 what `scale` says; elements to nearest, ties to even, saturating.
void round_mx(const RoundedRows& x, MxElement element, MxAxis axis, const Mxfp4Scale& scale = {});

/// Of a kernel that rounds and then calls `floats`: copies of some heads at a time, and what `floats` needs.
std::size_t rounded_attention_workspace(const AttentionProblem& problem, const AttentionKernel& floats);
/// o of the rounded q, k and v, by `floats`.
void rounded_attention(const AttentionProblem& problem, const AttentionCall& call,
                       const AttentionKernel& floats) noexcept;

/// The row of such a kernel.
template <const AttentionKernel* kFloats>
constexpr AttentionKernel rounding_kernel(std::string_view name) {
    return {
        .name = name,
        .formats = kRoundingFormats,
        .why_not = takes_no_bias,
        .workspace_bytes =
            [](const AttentionProblem& problem) { return rounded_attention_workspace(problem, *kFloats); },
        .run = [](const AttentionProblem& problem,
                  const AttentionCall& call) noexcept { rounded_attention(problem, call, *kFloats); }};
}

}  // namespace aerogel
