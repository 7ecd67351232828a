// Whether the arrays of a quantized layer fit its scheme.
#pragma once

#include "aerogel/quantized_linear.h"

namespace aerogel {

/// InvalidArgument when an array is missing, has the wrong type or shape, or a scale is not finite;
/// Unsupported for a scheme that is not supported.
void check_layer(const QuantizedLinearWeights& weights);

}  // namespace aerogel
