// int4 in two's complement, two columns per byte, scaled like int8.
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kInt4Format;

/// Encodes w f32[n,k] with given scale f32[n,groups] (and offset, may be undefined):
/// q = clamp(round_half_even(w/scale + offset), -8, 7).
QuantizedTensor encode_int4(const TensorView& weight, const Tensor& scale, const Tensor& offset);

/// Symmetric minmax: scale = max|w| / 7 per row (group_size 0) or group of columns, at least 2^-23.
QuantizedTensor encode_int4(const TensorView& weight, std::int64_t group_size);

/// The packed data u8[n, ceil(k/2)] of a matrix as files hold it: i8[n,k] with one value per byte, or packed
/// already, as u8 or i8. Throws InvalidArgument on other arrays and on bytes outside -8 .. 7.
Tensor read_int4(const Tensor& stored, std::int64_t rows, std::int64_t columns);

}  // namespace aerogel
