// q, k, v and o of one call in the order of the patterns: as they came, or as copies that live here.
#pragma once

#include "sparse/reorder.h"
#include "sparse/trace.h"

namespace aerogel {

class Reordered {
  public:
    /// The call's arrays themselves.
    Reordered(const SparseArrays& call, AttentionLayout call_layout) : arrays(call), layout(call_layout) {}
    /// Copies [batch, heads, tokens, head_dim] of q, k and v, these with as many heads as q, and room for o.
    Reordered(const SparseArrays& call, AttentionLayout call_layout, const OrderOfMap& q_orders,
              const OrderOfMap& k_orders);
    /// Puts o back, in the order of the queries.
    void put_back(const SparseArrays& call, AttentionLayout call_layout, const OrderOfMap& q_orders) const;

    SparseArrays arrays;
    AttentionLayout layout = AttentionLayout::bnsd;

  private:
    Tensor memory_;
};

}  // namespace aerogel
