// MXFP4 blocks scaled so that the largest magnitude becomes about 6 or about 4, whichever errs less: the gap
// between 4 and 6 is E2M1's widest. After Cook et al., "Four Over Six: More Accurate NVFP4 Quantization with
// Adaptive Block Scaling" (2025), with the power-of-two scales of msModelSlim's "fouroversix".
#pragma once

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// weight f32|bf16|f16 [n,k] contiguous -> mxfp4. Per block of 32 columns e = nearest(log2(max|w| / 6)) or
/// nearest(log2(max|w| / 4)); a tie goes up from an even number and down from an odd one. The second only
/// where its squared error is smaller; 0 for a block of zeros. InvalidArgument when the weight is no matrix
/// or not finite.
QuantizedTensor quantize_four_over_six_mxfp4(const TensorView& weight);

}  // namespace aerogel
