// Heads lie interleaved in rows, [tokens, heads * head_dim], so that nothing is ever transposed.
#pragma once

#include <cstdint>

#include "core/views.h"
#include "ops/elementwise.h"

namespace aerogel {

/// Contiguous rows [items * tokens, heads * head_dim] seen as [items, tokens, heads, head_dim].
template <typename View>
View as_heads(const View& rows, std::int64_t items, std::int64_t head_dim) {
    return reshaped(rows, {items, rows.dim(0) / items, rows.dim(1) / head_dim, head_dim});
}

/// RMS norm of every head by itself, in place, in contiguous rows; weight [head_dim], undefined: nothing is
/// done.
inline void normalize_heads(const Tensor& weight, const MutableView& rows, float epsilon,
                            const Context& context) {
    if (!weight.defined() || rows.count() == 0) return;
    const MutableView heads = reshaped(rows, {rows.count() / weight.count(), weight.count()});
    norm({.kind = NormKind::rms, .x = heads, .y = heads, .weight = weight, .epsilon = epsilon}, context);
}

}  // namespace aerogel
