// attention() where the tokens of a map count in another order than they lie in.
#pragma once

#include <cstdint>
#include <vector>

#include "aerogel/attention.h"
#include "ops/attention_checks.h"

namespace aerogel {

/// Per map (batch * heads of q + head), row i is token order[i]: of q and o, and of k and v. Masks and
/// causality are about rows. Empty: as the tokens lie.
struct TokenOrders {
    std::vector<const std::int32_t*> q, k;
};

void attention(const AttentionViews& views, const AttentionOptions& options, const TokenOrders& orders);
/// The same for formats other than none.
void quantized_attention(const AttentionViews& views, const AttentionOptions& options,
                         const TokenOrders& orders);
/// What messages about these options begin with.
std::string_view attention_op(const AttentionOptions& options);

}  // namespace aerogel
