// What a DiT does to q and k before attention, in one pass over memory: RMSNorm of the row or of its heads,
// then the rotary embedding of the heads.
#pragma once

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

struct RotatedNorm {
    TensorView x;       ///< [batch, tokens, heads * head_dim] float32 or bfloat16, rows contiguous
    MutableView y;      ///< like x, contiguous; may be x
    TensorView weight;  ///< [heads * head_dim], or [head_dim] if per_head; float32, contiguous, or undefined
    TensorView cos;     ///< [tokens, head_dim / 2] float32, contiguous: of pairs of neighbours
    TensorView sin;
    std::int64_t heads = 1;
    bool per_head =
        false;  ///< each head is normalized by itself, as in FLUX.2 and Z-Image; else the whole row
    float epsilon = 1e-6F;
};

/// y = rope(rms_norm(x) * weight) in float32, rounded once to x's type (Zhang & Sennrich 2019; Su et al.,
/// RoFormer, 2021). On the CPU. InvalidArgument for shapes and types that do not fit.
void rotated_norm(const RotatedNorm& args, const Context& context = {});

}  // namespace aerogel
