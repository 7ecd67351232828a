// The scales of int8 attention: found in the data, or calibrated ones laid out as the kernels want them.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/attention.h"
#include "kernels/quantized_attention.h"

namespace aerogel {

/// The arrays of QuantizedAttentionArgs; empty means null.
struct Int8Scales {
    Int8Scales() = default;
    Int8Scales(Int8Scales&&) = default;  // no copies: `search` points into the vectors
    Int8Scales& operator=(Int8Scales&&) = default;

    std::vector<float> q_scale, k_scale, v_scale, q_offset, k_offset, v_offset, k_mean, v_mean, v_shift;
    ScaleSearch search;  ///< of dynamic_scales()

    /// `args` points here.
    void fill(QuantizedAttentionArgs& args) const;
};

/// Tokens per scale of q and k, and whether k gets its mean taken off.
struct Int8Blocks {
    std::int64_t q_tokens = 1, k_tokens = 1;
    bool smooth_k = true;
};

/// What the kernel's find_scales() finds, or leaves to run() where both q_tokens and k_tokens are 1. `args`
/// has q, k, v and their strides.
Int8Scales dynamic_scales(const QuantizedAttentionKernel& kernel, const AttentionProblem& problem,
                          const QuantizedAttentionArgs& args, const Int8Blocks& blocks);

/// Calibrated scales, NaN where a value is not finite. InvalidArgument when they do not have `heads` positive
/// values.
Int8Scales static_scales(const QuantizedAttentionKernel& kernel, const AttentionProblem& problem,
                         const QuantizedAttentionArgs& args, const AttentionScales& scales);

}  // namespace aerogel
