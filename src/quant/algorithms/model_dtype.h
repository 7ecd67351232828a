// Arithmetic in the type of the model's weights. Files of bfloat16 models hold scales that were
// computed in bfloat16, one rounding per operation; to write the same bytes we round where they do.
#pragma once

#include "aerogel/tensor.h"

namespace aerogel {

/// `x` rounded to `dtype` (f32, bf16 or f16; ties to even) and back.
float round_to(DType dtype, float x);
/// f32, bf16 or f16.
bool is_model_dtype(DType dtype);

/// FLT_EPSILON: no scale is smaller, so that a row of zeros divides by something.
inline constexpr float kSmallestScale = 1.1920928955078125e-07F;

}  // namespace aerogel
