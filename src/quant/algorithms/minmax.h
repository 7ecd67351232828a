// Min-max quantization to int8: weights symmetric per output channel, activations asymmetric per
// tensor. All arithmetic is rounded to the type of the model's weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "aerogel/quantized_linear.h"
#include "aerogel/quantized_tensor.h"

namespace aerogel {

/// quantize_minmax() to symmetric int8 with a scale per row: the weights that set_static_scales() takes.
QuantizedTensor quantize_minmax_int8(const TensorView& weight);

/// Smallest and largest value of an activation.
struct InputRange {
    float min = 0.0F;
    float max = 0.0F;
};

/// Per-tensor scale of activations: x_q = clamp(round_half_even(x / scale + offset), -128, 127), or -8, 7.
struct InputScale {
    float scale = 1.0F;
    float offset = 0.0F;  ///< integral, -128 .. 127 or -8 .. 7
};

/// The range, widened to hold 0, is laid over the integers of 8 or 4 bits. `dtype` is that of the model's
/// weights.
InputScale asymmetric_scale(InputRange range, DType dtype, int bits);
/// The same for 8 bits.
InputScale asymmetric_int8(InputRange range, DType dtype);

/// Sets the static scales of a layer, one set per input: quant_bias = round_half_even(bias / deq_scale -
/// offset * sum_k w_q) and deq_scale = input scale * weight scale, for an int8 or int4 weight with a scale
/// per row. int32 overflow saturates. `dtype` is that of the model's weights.
void set_static_scales(QuantizedLinearWeights& layer, const std::vector<InputScale>& inputs, DType dtype);

/// Range of one forward. InvalidArgument when there are no values or one is not finite.
InputRange range_of(std::span<const float> values);

/// The value below which `percentile` % (0 .. 100) of the values lie, linear between neighbours (as NumPy's
/// default). Takes the values by copy, as it sorts part of them. InvalidArgument when there are none.
double percentile_of(std::vector<float> values, double percentile);

}  // namespace aerogel
