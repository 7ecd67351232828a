// A pattern says in which order a head's queries and keys are laid out, into which cells they are cut, and
// which cells of the attention map are computed. The table (table.cpp) lists every pattern there is: a new
// one is a file here and a row there, no kernel changes.
#pragma once

#include <cstdint>
#include <span>

#include "sparse/geometry.h"
#include "sparse/head_rows.h"
#include "sparse/token_order.h"
#include "sparse/trace.h"

namespace aerogel {

/// What a pattern that looks at the content sees: q and k in its order, k with as many heads as q.
struct ContentInput {
    const SparseSides& sides;
    const SparseOptions& options;  ///< scale is > 0
    const SparseArrays& call;
    HeadRows q;
    HeadRows k;
};

struct Pattern {
    HeadType type;
    /// Order of the queries (and outputs), order of the keys (and values); null: as they come.
    TokenOrder (*q_order)(const SparseGeometry& side);
    TokenOrder (*k_order)(const SparseGeometry& side);
    Cells (*cells)(const SparseGeometry& side);
    /// The kept cells when they depend neither on content nor on a given mask, else null. q and k are alike.
    BlockGrid (*static_blocks)(const SparseGeometry& side);
    /// The kept cells per map, chosen by the content, else null.
    std::vector<BlockGrid> (*content_blocks)(const ContentInput& input);
};

std::span<const Pattern> patterns();
/// The row of a head type other than HeadType::dense.
const Pattern& pattern_of(HeadType type);

BlockGrid spatial_blocks(const SparseGeometry& geometry);
BlockGrid temporal_blocks(const SparseGeometry& geometry);
BlockGrid textural_blocks(const SparseGeometry& geometry);
std::vector<BlockGrid> block_mean_blocks(const ContentInput& input);
std::vector<BlockGrid> antidiagonal_blocks(const ContentInput& input);

}  // namespace aerogel
