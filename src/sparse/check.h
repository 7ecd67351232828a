// What a sparse call must satisfy; each violation is an InvalidArgument that names both sides and, where it
// is not plain, the way out.
#pragma once

#include "sparse/geometry.h"
#include "sparse/trace.h"

namespace aerogel {

/// Checks arrays (4-D) and options against each other and returns the sizes of both sides.
SparseSides checked_sides(const SparseArrays& call, const SparseOptions& options);

/// Throws: no mask can be predicted; names the first value of q or k that is not finite.
[[noreturn]] void fail_not_finite(const SparseArrays& call, AttentionLayout layout);

}  // namespace aerogel
