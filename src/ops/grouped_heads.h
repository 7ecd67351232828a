// Grouped-query attention (Ainslie et al. 2023) for kernels that know one number of heads: the queries of the
// n-th head of every group, which is a strided view, meet all keys and values, for each n.
#pragma once

#include "base/function_ref.h"
#include "ops/token_orders.h"

namespace aerogel {

bool has_grouped_heads(const TensorView& q, const TensorView& k, AttentionLayout layout);

/// The n-th head of every group: as many heads as k has.
struct GroupMember {
    TensorView q, o;
    const BlockMask* mask = nullptr;  ///< of these heads, or null
    TokenOrders orders;               ///< of these heads
};

/// Calls attend(member) for every member of the groups; shapes are checked already.
void for_each_group_member(const AttentionViews& views, const AttentionOptions& options,
                           const TokenOrders& orders, FunctionRef<void(const GroupMember&)> attend);

}  // namespace aerogel
