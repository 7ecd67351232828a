// AWQ, activation-aware weight quantization: weight columns that meet large activations are scaled up before
// they are quantized, so that they lose less. Lin et al., "AWQ" (MLSys 2024), section 3.2.
#pragma once

#include "quant/algorithms/integer_grid.h"

namespace aerogel {

struct AwqResult {
    Tensor s;                  ///< f32 [k]
    double ratio = 0.0;        ///< the r chosen
    double error = 0.0;        ///< sum of squared changes of the output on the inputs, with these s
    double plain_error = 0.0;  ///< and with s = 1
};

/// s = v / sqrt(max v * min v) with v_c = max(mean|x_c|^r, 1e-4), for the r of 0, .05 .. .95 whose quantized
/// W s (minmax, with these groups) changes x W^T least; the smallest of equals. weight f32|bf16|f16 [n,k],
/// inputs x [tokens,k]. InvalidArgument when shapes do not fit or something is not finite.
AwqResult awq_scales(const TensorView& weight, const TensorView& inputs, const IntegerOptions& options);

}  // namespace aerogel
