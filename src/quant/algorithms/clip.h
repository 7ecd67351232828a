// Symmetric integer weights whose scale ignores the largest magnitudes: at a percentile, or where the squared
// error is smallest ("OMSE": Choukroun et al., "Low-bit Quantization of Neural Networks for Efficient
// Inference", ICCV workshops 2019, section 3). Values beyond the scale's reach are clamped.
#pragma once

#include "quant/algorithms/integer_grid.h"

namespace aerogel {

/// weight f32|bf16|f16 [n,k] contiguous -> int8 or int4 whose scale is the percentile (in (0, 100], linear
/// between neighbours) of |w| of each group over the largest integer. InvalidArgument when the percentile is
/// out of range, offsets are asked for, or the weight is no matrix or not finite.
QuantizedTensor quantize_percentile(const TensorView& weight, const IntegerOptions& options,
                                    double percentile);

/// The same with the largest of the 100 ratios 1, .99 .. .01 of the minmax scale that has the smallest
/// squared error. Never errs more than minmax.
QuantizedTensor quantize_mse_clip(const TensorView& weight, const IntegerOptions& options);

}  // namespace aerogel
