// What the algorithms take: weights and recorded inputs, checked once and widened to float32.
#pragma once

#include <string_view>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

/// weight f32|bf16|f16 [n,k], contiguous, not empty -> f32 [n,k], a copy. InvalidArgument, starting with
/// [algorithm], when it is something else or not finite.
Tensor float_weight(std::string_view algorithm, const TensorView& weight);

/// One row of a contiguous f32|bf16|f16 matrix [n,k] as k floats.
void widen_row(const TensorView& weight, std::int64_t row, float* out);

/// float_weight() for recorded inputs x [tokens,k]; `columns` is the k of the weight.
Tensor float_inputs(std::string_view algorithm, const TensorView& inputs, std::int64_t columns);

/// Layers that share one input: float_weight() of each. InvalidArgument when there are none or their k
/// differ.
std::vector<Tensor> float_weights(std::string_view algorithm, const std::vector<TensorView>& weights);

/// Columns that share a scale: group_size, or all of them for 0. InvalidArgument when it does not divide k.
std::int64_t group_width(std::string_view algorithm, std::int64_t columns, std::int64_t group_size);

}  // namespace aerogel
