// AutoRound: roundings and scales are moved by the sign of the gradient of the layer's error on recorded
// inputs. Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent" (arXiv 2309.05516).
#pragma once

#include "quant/algorithms/integer_grid.h"

namespace aerogel {

struct AutoroundOptions {
    IntegerOptions grid;
    int steps = 200;  ///< the first moves everything by 1 / steps, the last by nearly nothing
};

/// weight f32|bf16|f16 [n,k], inputs x [tokens,k] -> int8 or int4: round(w / s + v) with |v| <= 1/2 and s the
/// minmax scale of the row or group times a factor of [1/2, 1], both found by signed gradient descent on
/// |(W' - W) x^T|^2 through the rounding (straight-through). Every row keeps the best it has met; the first
/// is minmax, so on these inputs no row is worse than that. In float32 with the machine's linear kernels.
/// InvalidArgument when shapes or groups do not fit, steps are less than 1 or something is not finite.
QuantizedTensor quantize_autoround(const TensorView& weight, const TensorView& inputs,
                                   const AutoroundOptions& options);

}  // namespace aerogel
