// Scaled dot-product attention on the CPU: dense, or over the key blocks a BlockMask keeps.
// layer: ops
#pragma once

#include "aerogel/block_mask.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// Order of the axes of q, k, v and o: [batch, heads, tokens, head_dim] or [batch, tokens, heads, head_dim].
enum class AttentionLayout : std::uint8_t { bnsd, bsnd };

struct AttentionOptions {
    AttentionLayout layout = AttentionLayout::bsnd;
    const BlockMask* mask = nullptr;  ///< null = dense; a query row without any kept block gives zeros
    float scale = 0.0F;               ///< <= 0: head_dim^-0.5
};

/// o = softmax(scale * q k^T) v per head. q, k, v, o: one dtype (f32 or bf16), 4-D in options.layout,
/// head_dim 1..256, last axis contiguous; q_len and k_len may differ. Throws InvalidArgument when shapes do
/// not fit.
void attention(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& o,
               const AttentionOptions& options = {});

}  // namespace aerogel
