// How much a changed weight changes a layer's output on recorded inputs: what the algorithms with data
// minimise.
#pragma once

#include "aerogel/tensor.h"

namespace aerogel {

/// x f32 [tokens,k], w f32 [n,k] -> sum over tokens and outputs of (x w^T)^2, accumulated in double.
double output_energy(const Tensor& x, const Tensor& w);

/// a f32 [rows,k] times s f32 [k], column by column; a copy.
Tensor scale_columns(const Tensor& a, const Tensor& s);

/// a - b, of equal shapes; a copy.
Tensor difference(const Tensor& a, const Tensor& b);

}  // namespace aerogel
