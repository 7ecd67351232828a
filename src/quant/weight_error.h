// How far stored weights are from those they stand for.
#pragma once

#include "aerogel/quantized_linear.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// |W - restored| / |W| (Frobenius norms) of a float weight f32|bf16|f16 [n,k]; 0 when W is zero.
double relative_error(const TensorView& weight, const QuantizedLinearWeights& layer);

}  // namespace aerogel
