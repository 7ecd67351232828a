// A band around the diagonal, in whatever order the tokens stand: shared by spatial and temporal heads.
#pragma once

#include <cstdint>

#include "base/function_ref.h"
#include "sparse/geometry.h"

namespace aerogel {

/// Tokens to either side of the diagonal that the band covers: floor(b * frames * height * width) with
/// b = 1 - sqrt(sparsity), so that the band covers 1 - sparsity of the square (arXiv 2505.21036).
std::int64_t band_half_width(const SparseGeometry& geometry);

/// Blocks with any pair of tokens whose positions are at most the half-width apart, plus the protected
/// ones. `position(place)` must grow with the place over the unprotected video tokens.
BlockGrid band_blocks(const SparseGeometry& geometry, FunctionRef<std::int64_t(std::int64_t)> position);

}  // namespace aerogel
