// Attention in int8 for AVX-512 with VNNI.
#pragma once

#include "kernels/quantized_attention.h"

namespace aerogel::avx512 {

std::size_t quantized_attention_workspace(const AttentionProblem& problem);
/// Takes f32 and bf16, head_dim 1..256, any lengths, with or without a mask.
void quantized_attention(const AttentionProblem& problem, const QuantizedAttentionArgs& args) noexcept;
void attention_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                      const ScaleSearch& search) noexcept;

}  // namespace aerogel::avx512
