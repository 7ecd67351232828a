// Min-max quantization of weights to every format: the largest magnitude of a row, a group or a block of
// columns takes the largest code.
#pragma once

#include "quant/algorithms/algorithm.h"

namespace aerogel {

/// weight f32|bf16|f16 [n,k] contiguous -> `format` (any but the float ones).
/// int8, int4: scale = max|w| / 127 or / 7 and q = clamp(round(w / scale), -127 or -8, 127 or 7); asymmetric:
/// scale = max/(2^b-1) - min/(2^b-1) of the range widened to hold 0, offset = round(-min/scale) - 2^(b-1), q
/// = clamp(round(w/scale + offset)). Ties go to even; scales are at least FLT_EPSILON. Whole rows are
/// computed in the weight's type, one rounding per operation, groups in f32. fp8: scale = max|w| / 448 or /
/// 57344 per row or group. mxfp8, mxfp4, mxfp4_dual: see their encoders. InvalidArgument when the weight is
/// no matrix or not finite, when groups do not divide the columns, and for options that the format does not
/// have.
QuantizedTensor quantize_minmax(const TensorView& weight, Format format, const WeightOptions& options);

}  // namespace aerogel
