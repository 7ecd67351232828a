// attention() and quantized_attention() where the tokens of a map count in another order than they lie in.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/quantized_attention.h"
#include "ops/attention_checks.h"

namespace aerogel {

/// Per map (batch * heads of q + head), row i is token order[i]: of q and o, and of k and v. Masks and
/// causality are about rows. Empty: as the tokens lie.
struct TokenOrders {
    std::vector<const std::int32_t*> q, k;
};

void attention(const AttentionViews& views, const AttentionOptions& options, const TokenOrders& orders);
void quantized_attention(const AttentionViews& views, const QuantizedAttentionOptions& options,
                         const TokenOrders& orders);

}  // namespace aerogel
