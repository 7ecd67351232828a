// What a sparse call must satisfy; each violation is an InvalidArgument that names both sides.
#pragma once

#include "sparse/geometry.h"
#include "sparse/trace.h"

namespace aerogel {

/// Checks arrays and options against each other and returns the call's sizes.
SparseGeometry checked_geometry(const SparseArrays& call, const SparseOptions& options);

}  // namespace aerogel
