// MXFP4 with a second scale: a float per 512 columns above the E8M0 scales.
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kMxfp4DualFormat;

/// Encodes w f32[n,k]: D = max|w| / 6 per row and 512 columns (1 where that is not a normal float: a block of
/// zeros), then w / D as MXFP4.
QuantizedTensor encode_mxfp4_dual(const TensorView& weight);

/// The same for one row of floats, which are divided by D in place.
void encode_mxfp4_dual_row(float* values, std::int64_t row, QuantizedTensor& encoded);

}  // namespace aerogel
