// MXFP4 exponents from a ceiling c: each block's largest magnitude lands in (c/2, c] ("ceil_x" of
// msModelSlim). E2M1 ends at 6, so c > 6 clips a little at the top of some blocks to gain resolution in all
// others.
#pragma once

#include "aerogel/quantized_tensor.h"

namespace aerogel {

inline constexpr float kDefaultCeiling = 7.25F;

/// weight f32|bf16|f16 [n,k] contiguous -> mxfp4, e = ceil(log2(max|w| / c + 9.6e-7)) per block of 32
/// columns. InvalidArgument when c is not in [6, 12], or the weight is no matrix or not finite.
QuantizedTensor quantize_ceil_x_mxfp4(const TensorView& weight, float ceiling);

/// With the default ceiling 7.25.
QuantizedTensor quantize_ceil_x_mxfp4(const TensorView& weight);

/// With the one ceiling of 6, 6.25 .. 12 for the whole matrix that has the smallest squared error; the
/// smallest of equals.
QuantizedTensor quantize_ceil_x_search_mxfp4(const TensorView& weight);

}  // namespace aerogel
