// A pattern says in which order a head's queries and keys are laid out and which blocks of the
// attention map are computed. The table (table.cpp) lists every pattern there is: a new one is a file
// here and a row there, no kernel changes.
#pragma once

#include <cstdint>
#include <span>

#include "sparse/geometry.h"
#include "sparse/token_order.h"

namespace aerogel {

/// How one head's tokens lie inside. Values go with the keys, outputs with the queries.
struct TokenLayout {
    TokenOrder q;
    TokenOrder k;
};

/// Block means of one head in its layout; video and text are pooled separately, so a short last video
/// block and the first text block are two means even where they share a block of the grid.
struct PooledHead {
    const float* q = nullptr;  ///< [means, head_dim]
    const float* k = nullptr;  ///< [head_dim, means], transposed
    std::int64_t head_dim = 0;
};

struct Pattern {
    HeadType type;
    TokenLayout (*layout)(const SparseGeometry& geometry);
    /// The kept blocks when they do not depend on the content, else null.
    BlockGrid (*static_blocks)(const SparseGeometry& geometry);
    /// The kept blocks chosen by the content, else null.
    BlockGrid (*content_blocks)(const SparseGeometry& geometry, const PooledHead& pooled);
};

std::span<const Pattern> patterns();
/// The row of a head type other than HeadType::dense.
const Pattern& pattern_of(HeadType type);

TokenLayout spatial_layout(const SparseGeometry& geometry);
BlockGrid spatial_blocks(const SparseGeometry& geometry);
TokenLayout temporal_layout(const SparseGeometry& geometry);
BlockGrid temporal_blocks(const SparseGeometry& geometry);
TokenLayout textural_layout(const SparseGeometry& geometry);
BlockGrid textural_blocks(const SparseGeometry& geometry);
TokenLayout block_mean_layout(const SparseGeometry& geometry);
BlockGrid block_mean_blocks(const SparseGeometry& geometry, const PooledHead& pooled);

}  // namespace aerogel
