// Attention for any x86-64 (SSE2).
#pragma once

#include "kernels/attention.h"

namespace aerogel::baseline {

std::size_t attention_workspace(const AttentionProblem& problem);
/// Takes f32 and bf16, any sizes, with or without a mask.
void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept;

}  // namespace aerogel::baseline
