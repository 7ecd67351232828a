// Shapes of what a forward pass is given.
#pragma once

#include <string_view>

#include "aerogel/tensor.h"

namespace aerogel {

/// InvalidArgument "[wan] hidden_states must be f32[*,16,*,*,*], got ...". -1 in `wanted` stands for any
/// size.
void check_shape(std::string_view family, const char* name, const Tensor& tensor, const Shape& wanted);

}  // namespace aerogel
