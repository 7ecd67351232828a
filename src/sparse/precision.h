// The attention call at the end of a sparse call, in the arithmetic that was asked for.
#pragma once

#include "sparse/trace.h"

namespace aerogel {

/// o = attention of q, k, v in `layout` under `mask` (null: dense), with the scale, causality and precision
/// of `options`.
void attend(const SparseArrays& arrays, AttentionLayout layout, const BlockMask* mask,
            const SparseOptions& options);

}  // namespace aerogel
