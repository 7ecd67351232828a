// The arrays of int8 attention: found in the data, or calibrated values laid out as the kernels want them.
#pragma once

#include <cstddef>

#include "aerogel/attention.h"
#include "kernels/attention.h"

namespace aerogel {

/// Bytes that fill_scales() needs, in multiples of 64.
std::size_t scale_bytes(const AttentionProblem& problem, const AttentionOptions& options);

/// Checks calibrated scales: InvalidArgument when they are not so many positive values per head.
void check_scales(const AttentionScales& scales, std::int64_t heads, std::int64_t kv_heads);

/// Where fill_scales() puts what it finds: 64-byte aligned, on the device of the arrays.
struct ScaleMemory {
    std::byte* data;
    Device device;
};

/// Sets call.int8: what the kernel's find_scales() finds, or leaves to run() where each token has its own;
/// with options.scales those, NaN where a value is not finite.
void fill_scales(const AttentionKernel& kernel, const AttentionProblem& problem,
                 const AttentionOptions& options, const ScaleMemory& memory, AttentionCall& call);

}  // namespace aerogel
