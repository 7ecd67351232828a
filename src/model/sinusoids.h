// Numbers as vectors of cosines and sines (Vaswani et al., arXiv 1706.03762), as diffusers embeds timesteps.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

/// f32 [numbers, dim]: cos then sin of scale * (t * 10000^(-i/half)), in the float32 steps of diffusers'
/// get_timestep_embedding(flip_sin_to_cos=True, downscale_freq_shift=0). At t = 1000 the float32 rounding of
/// the angle is visible, and the models were trained with it. An odd dim ends with a zero.
Tensor sinusoids(const std::vector<float>& numbers, std::int64_t dim, Device device, float scale = 1.0F);

}  // namespace aerogel
