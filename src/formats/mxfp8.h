// MXFP8: E4M3 elements, one E8M0 scale per 32 columns (OCP Microscaling Formats 1.0).
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kMxfp8Format;

/// Encodes w f32[n,k] by minmax: e = floor(log2 max|w|) - 8 per block, at least -127; elements w / 2^e to
/// nearest, ties away from zero, clamped to +-448.
QuantizedTensor encode_mxfp8(const TensorView& weight);

/// The same for one row of floats.
void encode_mxfp8_row(const float* values, std::int64_t row, QuantizedTensor& encoded);

}  // namespace aerogel
