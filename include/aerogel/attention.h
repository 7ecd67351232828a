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
    const BlockMask* mask = nullptr;  ///< null = dense; a query row that sees no key gives zeros
    float scale = 0.0F;               ///< <= 0: head_dim^-0.5
    bool causal = false;              ///< query i sees no key behind i + k_len - q_len
};

/// o = softmax(scale * q k^T) v per head. q, k, v, o: one dtype (f32 or bf16), 4-D in options.layout,
/// head_dim 1..256, last axis contiguous; q_len and k_len may differ. k and v may have fewer heads than q:
/// head h then reads theirs h / (q heads / k heads) (GQA, Ainslie et al. 2023). Sums are float32, as are the
/// softmax weights; with AMX those of bf16 are rounded to bf16 before they meet v, and
/// numbers below 2^-126 count as zero. Causal: a NaN or infinity in v also reaches queries up to 127 tokens
/// before it. Throws InvalidArgument when shapes do not fit.
void attention(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& o,
               const AttentionOptions& options = {});

}  // namespace aerogel
