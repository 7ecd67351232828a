// Smoothing: outliers of activations sit in few channels; dividing channel c of x by s_c and multiplying
// column c of W by it leaves the product as it was and both sides easier to quantize. Xiao et al.,
// "SmoothQuant" (ICML 2023), section 4. Files hold 1/s as `div.mul_scale` beside the smoothed weight.
#pragma once

#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

/// s = max(A^alpha / W^beta, scale_min) with A = max|x_c| over tokens and W = max|W[:,c]| over all layers
/// that share the input. SmoothQuant: alpha = beta = .5. Iterative smoothing of msModelSlim: .9 and .1.
struct SmoothingOptions {
    double alpha = 0.5;
    double beta = 0.5;
    double scale_min = 1e-5;
};

/// max|x_c| of recorded inputs x [tokens,k] -> f32 [k].
Tensor channel_maxima(const TensorView& inputs);

/// Layers that share one input, weights f32|bf16|f16 [n_i,k], and A f32 [k] -> s f32 [k]. A channel that is
/// zero in A or in all weights gets 1: nothing is known about it. InvalidArgument when shapes differ, A is
/// negative or not finite, or scale_min is not positive.
Tensor smoothing_scales(const std::vector<TensorView>& weights, const Tensor& maxima,
                        const SmoothingOptions& options);

/// alpha and beta in steps of .05 with the smallest relative error of the layers' outputs in W8A8 (weights
/// symmetric per row to +-127, activations asymmetric per tensor): first alpha in 0 .. 1 with beta = 1 -
/// alpha, then beta in 0 .. 1; the later of equals. The "flex smooth" of msModelSlim.
SmoothingOptions search_smoothing(const std::vector<TensorView>& weights, const TensorView& inputs,
                                  double scale_min = 1e-5);

/// 1/s: what x is multiplied by.
Tensor mul_scale_of(const Tensor& s);

}  // namespace aerogel
