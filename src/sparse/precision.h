// The attention call at the end of a sparse call, in the arithmetic that was asked for.
#pragma once

#include "ops/token_orders.h"
#include "sparse/trace.h"

namespace aerogel {

/// o = attention of q, k, v under `mask` (null: dense), which is about their rows in these orders, with the
/// layout, scale, causality and precision of `options`.
void attend(const SparseArrays& arrays, const SparseOptions& options, const BlockMask* mask,
            const TokenOrders& orders);

}  // namespace aerogel
