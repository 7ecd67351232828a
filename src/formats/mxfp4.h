// MXFP4: E2M1 elements, two per byte, one E8M0 scale per 32 columns (OCP Microscaling Formats 1.0).
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kMxfp4Format;

/// Encodes w f32[n,k] by minmax: e = floor(log2(max|w| * 8/7 + 9.6e-7)) - 2 per block, in -129 .. 125;
/// elements w / 2^e to nearest, ties away from zero, clamped to +-6. A block of zeros has e = -22.
QuantizedTensor encode_mxfp4(const TensorView& weight);

/// The packed data u8[n, ceil(k/2)] of a matrix as files hold it: f8_e4m3[n,k] with one value per byte, or
/// packed already, as u8 or i8. Throws InvalidArgument on other arrays and on values E2M1 does not have.
Tensor read_mxfp4(const Tensor& stored, std::int64_t rows, std::int64_t columns);

/// Columns of a matrix where only its array is known; an odd number of packed columns counts as one more.
/// InvalidArgument on other types and shapes than read_mxfp4() takes.
std::int64_t mxfp4_columns(const Tensor& stored);

/// What mxfp4_dual shares: FormatRow::elements, and one row of floats encoded.
void mxfp4_elements(const QuantizedTensor& weight, const Slice& slice, float* out);
void encode_mxfp4_row(const float* values, std::int64_t row, QuantizedTensor& encoded);

}  // namespace aerogel
