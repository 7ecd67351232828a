// GPTQ: columns are quantized one after the other, and what each loses on recorded inputs is made good by the
// columns that follow. Frantar et al., "GPTQ" (ICLR 2023), section 3 and algorithm 1.
#pragma once

#include "quant/algorithms/integer_grid.h"

namespace aerogel {

struct GptqOptions {
    IntegerOptions grid;
    double damping = 0.01;     ///< of the mean diagonal of the Hessian, added to the diagonal
    std::int64_t block = 128;  ///< columns whose corrections are applied at once; only speed depends on it
};

/// weight f32|bf16|f16 [n,k], inputs x [tokens,k] -> int8 or int4 with minmax scales per row (of the weight
/// as it was) or per group of columns (of the weight as corrected when the group is reached). Hessian H =
/// 2/tokens x^T x; columns whose input is always zero become zero. All in double precision. InvalidArgument
/// when shapes or groups do not fit, damping is negative, H is not positive definite or something is not
/// finite.
QuantizedTensor quantize_gptq(const TensorView& weight, const TensorView& inputs, const GptqOptions& options);

}  // namespace aerogel
