// Sizes that the planning kernels and their launches agree on; their arguments are those of
// kernels/planning.h.
#pragma once

#include "kernels/planning.h"

namespace aerogel::cuda {

/// Threads of a block where rows, lists and maps go to warps or threads.
constexpr unsigned kPlanningThreads = 256;
/// Threads that sum the rows of a cell.
constexpr unsigned kMeanThreads = 128;
/// Queries and panels of keys of one block of mean_products.
constexpr int kProductRows = 8, kProductWarps = 4;
/// Rows and keys of one block of strided_products, and its threads.
constexpr int kStridedTile = 64, kStridedThreads = 128;

}  // namespace aerogel::cuda
