// What attention() and quantized_attention() check of their arguments.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "kernels/attention.h"

namespace aerogel {

struct AttentionViews {
    std::string_view op;  ///< begins the messages
    const TensorView& q;
    const TensorView& k;
    const TensorView& v;
    const TensorView& o;
};

/// Throws InvalidArgument: "[op] what (q ..., k ..., v ..., o ...)".
[[noreturn]] void fail_attention(const std::string& what, const AttentionViews& views);

/// Row-major where the view has no strides.
Shape strides_of(const TensorView& view);

AttentionStrides attention_strides(const TensorView& view, AttentionLayout layout);
/// With an order per map, or none; the strides point to it.
AttentionStrides ordered_strides(const TensorView& view, AttentionLayout layout,
                                 const std::vector<const std::int32_t*>& orders);

/// Checks devices, types, shapes, scale and mask.
AttentionProblem check_attention(const AttentionViews& views, const AttentionOptions& options);

}  // namespace aerogel
