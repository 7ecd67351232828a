// Rotation of rows: checks, and the choice of a kernel.
#pragma once

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// x f32 [rows,columns] -> y of the same shape, another array: each group of `block` columns times the
/// Hadamard matrix over sqrt(block), after x is multiplied by signs f32 [columns] of +-1 (undefined: none).
/// Contiguous. InvalidArgument when shapes differ or block is no power of two that divides the columns.
void hadamard_rows(const TensorView& x, const MutableView& y, std::int64_t block, const Tensor& signs,
                   const Context& context = {});

}  // namespace aerogel
