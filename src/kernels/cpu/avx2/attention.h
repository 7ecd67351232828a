// Attention for AVX2 with FMA.
#pragma once

#include "kernels/attention.h"

namespace aerogel::avx2 {

std::size_t attention_workspace(const AttentionProblem& problem);
/// Takes f32 and bf16, any sizes, with or without a mask.
void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept;

}  // namespace aerogel::avx2
