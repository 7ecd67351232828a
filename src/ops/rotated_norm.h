// What a DiT does to q and k before attention, in one pass over memory: RMSNorm of the row, then the rotary
// embedding of its heads.
#pragma once

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

struct RotatedNorm {
    TensorView x;       ///< [batch, tokens, heads * head_dim] float32 or bfloat16, rows contiguous
    MutableView y;      ///< like x, contiguous; may be x
    TensorView weight;  ///< [heads * head_dim] float32, contiguous, or undefined
    TensorView cos;     ///< [tokens, head_dim / 2] float32, contiguous: of pairs of neighbours
    TensorView sin;
    std::int64_t heads = 1;
    float epsilon = 1e-6F;
};

/// y = rope(rms_norm(x) * weight) in float32, rounded once to x's type (Zhang & Sennrich 2019; Su et al.,
/// RoFormer, 2021). On the CPU. InvalidArgument for shapes and types that do not fit.
void rotated_norm(const RotatedNorm& args, const Context& context = {});

}  // namespace aerogel
