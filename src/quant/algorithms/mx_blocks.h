// MX blocks whose exponent is chosen by an algorithm and not by the largest magnitude: elements rounded as
// the exporters of such files do it (to nearest, ties away from zero, saturating), and the error of an
// exponent.
#pragma once

#include <cstdint>
#include <span>

#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// w / 2^exponent to the nearest E4M3 or E2M1 value; `format` is mxfp8 or mxfp4. The sign of w stays.
float nearest_mx_element(Format format, float w, int exponent);

/// Sum of (w - 2^exponent * nearest_mx_element)^2 over a block.
double mx_block_error(Format format, std::span<const float> block, int exponent);

/// weight f32 [n,k], checked -> its blocks of 32 columns with the exponents choose(block), limited to
/// -127 .. 127. A block whose chosen exponent is below -127 becomes zeros.
QuantizedTensor encode_mx_blocks(Format format, const Tensor& weight,
                                 int (*choose)(std::span<const float> block, float parameter),
                                 float parameter);

}  // namespace aerogel
