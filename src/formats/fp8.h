// 8-bit floats, E4M3 and E5M2, with a float scale per row or per group of columns.
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kFp8E4M3Format;
extern const FormatRow kFp8E5M2Format;

/// FormatRow::elements of every format whose elements are E4M3.
void e4m3_elements(const QuantizedTensor& weight, const Slice& slice, float* out);

/// Encodes w f32[n,k] with given scale f32[n,groups]: w/scale, to nearest, ties to even, saturating.
QuantizedTensor encode_fp8_e4m3(const TensorView& weight, const Tensor& scale);
QuantizedTensor encode_fp8_e5m2(const TensorView& weight, const Tensor& scale);

/// Minmax: scale = max|w| / 448 (E4M3) or / 57344 (E5M2) per row (group_size 0) or group of columns, at least
/// the smallest normal float.
QuantizedTensor encode_fp8_e4m3(const TensorView& weight, std::int64_t group_size);
QuantizedTensor encode_fp8_e5m2(const TensorView& weight, std::int64_t group_size);

}  // namespace aerogel
