// Where the rows of attention's arrays lie, for the reference kernels.
#pragma once

#include "kernels/quantized_attention.h"

namespace aerogel::reference {

/// First element of a row of one map, as AttentionStrides says.
inline std::int64_t row_start(const AttentionProblem& problem, const AttentionStrides& strides,
                              std::int64_t map, std::int64_t row) {
    const std::int64_t token = strides.order == nullptr ? row : strides.order[map][row];
    return map / problem.heads * strides.batch + map % problem.heads * strides.head + token * strides.token;
}

/// As QuantizedAttentionKernel::find_scales.
void attention_scales(const AttentionProblem& problem, const QuantizedAttentionArgs& args,
                      const ScaleSearch& search) noexcept;

}  // namespace aerogel::reference
