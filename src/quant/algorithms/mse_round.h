// Shared exponents of MXFP8 rounded down or up, whichever errs less ("mse_round" of msModelSlim; the format
// itself is that of the OCP Microscaling Formats 1.0, section 6.3, which always rounds down).
#pragma once

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// weight f32|bf16|f16 [n,k] contiguous -> mxfp8. Per block of 32 columns e = floor(log2 max|w|) - 8 or
/// ceil(log2 max|w|) - 8, at least -127: the second only where its squared error is smaller.
/// InvalidArgument when the weight is no matrix or not finite.
QuantizedTensor quantize_mse_round_mxfp8(const TensorView& weight);

}  // namespace aerogel
