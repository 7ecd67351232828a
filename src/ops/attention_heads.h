// Grouped-query attention (Ainslie et al., "GQA", EMNLP 2023): k and v with fewer heads than q, each serving
// as many heads of q as the numbers divide.
#pragma once

#include <cstdint>

#include "aerogel/quantized_attention.h"

namespace aerogel {

/// Heads of q per head of k and v; 1 when they are equal or do not divide (which the checks then refuse).
std::int64_t head_groups(const TensorView& q, const TensorView& k, const TensorView& v,
                         AttentionLayout layout);

/// A contiguous copy with every head `groups` times behind each other.
Tensor repeated_heads(const TensorView& view, std::int64_t groups, AttentionLayout layout);

/// Calibrated scales and offsets of k and v, one per head of theirs, repeated likewise.
AttentionScales repeated_scales(const AttentionScales& scales, std::int64_t groups);

}  // namespace aerogel
