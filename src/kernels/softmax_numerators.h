// Softmax as the recognition of heads and the prediction of masks need it: whole rows in float32, in loops
// that the compiler turns into vectors, in a fixed order.
#pragma once

#include <cstddef>

namespace aerogel {

/// x = e^((x - max x) * scale), to about 1e-6 relative and not below e^-87; scale is positive. Where a value
/// is NaN or +inf the result means nothing.
void softmax_numerators(float* x, std::size_t count, float scale);

bool all_finite(const float* x, std::size_t count);

}  // namespace aerogel
