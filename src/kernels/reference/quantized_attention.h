// The reference of attention in int8: integers as kernels/quantized_attention.h says, all else in double.
#pragma once

#include "kernels/quantized_attention.h"

namespace aerogel::reference {

std::size_t quantized_attention_workspace(const AttentionProblem& problem);
void quantized_attention(const AttentionProblem& problem, const QuantizedAttentionArgs& args) noexcept;
void attention_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                      const ScaleSearch& search) noexcept;

}  // namespace aerogel::reference
