// Attention for the AMX tile unit.
#pragma once

#include "kernels/attention.h"

namespace aerogel::amx {

std::size_t attention_workspace(const AttentionProblem& problem);
/// Takes bf16, any sizes, with or without a mask. Weights are rounded to bfloat16 before they meet v; numbers
/// below 2^-126 count as zero.
void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept;

}  // namespace aerogel::amx
