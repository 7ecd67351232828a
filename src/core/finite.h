// The search for values that are not finite: fast enough to look at every result.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "aerogel/tensor.h"

namespace aerogel {

/// The place of the first NaN or infinity in a contiguous f64, f32, bf16, f16, f8_e5m2 or f8_e4m3 array; none
/// for other types.
std::optional<std::int64_t> first_not_finite(const TensorView& tensor);

/// "'x' f32[2,3] is not finite: element [1,0] is nan", or an empty string when all of it is finite.
std::string finite_problem(const std::string& name, const TensorView& tensor);

}  // namespace aerogel
