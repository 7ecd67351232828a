// int8 in two's complement, scaled per row or per group of columns, symmetric or with an offset.
#pragma once

#include "formats/format.h"

namespace aerogel {

extern const FormatRow kInt8Format;

/// Encodes w f32[n,k] with given scale f32[n,groups] (and offset, may be undefined):
/// q = clamp(round_half_even(w/scale + offset), low, 127).
QuantizedTensor encode_int8(const TensorView& weight, const Tensor& scale, const Tensor& offset,
                            int low = -128);

}  // namespace aerogel
