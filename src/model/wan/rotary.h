// Rotary position tables of a video's tokens (RoFormer, arXiv 2104.09864; three axes as in Wan).
#pragma once

#include <cstdint>

#include "aerogel/sparse_attention.h"
#include "aerogel/tensor.h"

namespace aerogel {

struct RotaryTable {
    Tensor cos;  ///< f32 [tokens, head_dim / 2]
    Tensor sin;
};

/// Angles are position * 10000^(-2i/d) in double. The head's pairs go to the axes in the order frame, row,
/// column; rows and columns get head_dim / 6 pairs each, frames the rest.
RotaryTable rotary_table(const LatentShape& grid, std::int64_t head_dim, Device device);

}  // namespace aerogel
