// The scales of int8 attention: found in the data, or calibrated ones laid out as the kernels want them.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/quantized_attention.h"
#include "kernels/quantized_attention.h"

namespace aerogel {

/// The arrays of QuantizedAttentionArgs; empty means null.
struct Int8Scales {
    std::vector<float> q_scale, k_scale, v_scale, q_offset, k_offset, v_offset, k_mean, v_mean, v_shift;

    void fill(QuantizedAttentionArgs& args) const;
};

/// Tokens per scale of q and k, and whether k gets its mean taken off.
struct Int8Blocks {
    std::int64_t q_tokens = 1, k_tokens = 1;
    bool smooth_k = true;
};

/// Largest value / 127 per block of tokens of q and k and per channel and group of keys of v, after the means
/// of v and, if asked for, of k. `args` has q, k, v and their strides. NaN where a value is not finite.
Int8Scales dynamic_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                          const Int8Blocks& blocks);

/// Calibrated scales, NaN where a value is not finite. InvalidArgument when they do not have `heads` positive
/// values.
Int8Scales static_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                         const AttentionScales& scales);

}  // namespace aerogel
