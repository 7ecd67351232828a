// Hadamard rotation: an orthogonal R spreads outlier channels over a group of columns before both sides are
// quantized, and (x R)(W R)^T = x W^T. Needs no data. Ashkboos et al., "QuaRot" (NeurIPS 2024), section 3;
// ConvRot (arXiv 2512.03673).
#pragma once

#include <cstdint>
#include <string_view>

#include "aerogel/rotation.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// The columns of one transform: shape.block, or for -1 the largest power of two that divides `columns`; of
/// four, and 256 at most, for convrot. InvalidArgument when the block is neither -1 nor one of its kind that
/// divides the columns.
std::int64_t rotation_block(std::int64_t columns, RotationShape shape);

/// "64" or "-1" (Hadamard), "convrot" (-1) or "convrot:64", "0" (none). InvalidArgument otherwise.
RotationShape parse_rotation(std::string_view text);

/// R = blocks diag(signs) H / sqrt(block) along the diagonal, H as the kind has it. The weight is rotated
/// once, offline; x whenever it arrives (ops/hadamard.h).
class Rotation {
  public:
    /// shape: see rotation_block(). seed >= 0: signs from the low bits of mt19937(seed), as the q_rot and
    /// k_rot of the file format (1234); -1: all +1. InvalidArgument otherwise.
    Rotation(std::int64_t columns, RotationShape shape, std::int64_t seed);

    std::int64_t block() const { return shape_.block; }
    /// f32 [columns].
    const Tensor& signs() const { return signs_; }
    /// x R, x (or a weight) f32|bf16|f16 [tokens,k] -> f32.
    Tensor rotated_inputs(const TensorView& inputs) const;

  private:
    std::int64_t columns_ = 0;
    RotationShape shape_;
    Tensor signs_;
};

}  // namespace aerogel
