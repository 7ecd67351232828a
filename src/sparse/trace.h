// A sparse call that also hands out what it decided: the block mask and the token orders. Tests read it.
#pragma once

#include <vector>

#include "aerogel/sparse_attention.h"
#include "sparse/token_order.h"

namespace aerogel {

/// The arrays of one call.
struct SparseArrays {
    TensorView q, k, v, o;
};

/// How one head's tokens lie inside. Values go with the keys, outputs with the queries.
struct TokenLayout {
    TokenOrder q;
    TokenOrder k;
};

/// What one call computed with; empty when the call stayed dense.
struct SparseTrace {
    BlockMask mask;
    std::vector<TokenLayout> layouts;  ///< batch * heads
};

/// sparse_attention(), filling `trace` unless it is null.
SparseReport traced_sparse_attention(const SparseArrays& call, const SparseOptions& options,
                                     SparseTrace* trace);

}  // namespace aerogel
