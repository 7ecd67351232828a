// Rotation of rows: checks, and the choice of a kernel.
#pragma once

#include "aerogel/context.h"
#include "aerogel/rotation.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// x f32 [rows,columns] -> y of the same shape, another array: each group of shape.block columns times the
/// matrix of shape.kind over sqrt(block), after x is multiplied by signs f32 [columns] of +-1, or other
/// factors (undefined: none). Contiguous. InvalidArgument when shapes differ or the block is none of its kind
/// (is_rotation_block) that divides the columns.
void hadamard_rows(const TensorView& x, const MutableView& y, RotationShape shape, const Tensor& signs,
                   const Context& context = {});

}  // namespace aerogel
