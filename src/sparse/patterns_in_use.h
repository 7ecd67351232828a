// Token orders and static masks of the kinds of head that one call has; heads of one kind share them.
#pragma once

#include <array>
#include <vector>

#include "ops/token_orders.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {

class PatternsInUse {
  public:
    /// Dense heads (of rf_v1) stand in raster order and keep all blocks.
    PatternsInUse(const SparseSides& sides, const std::vector<HeadReport>& heads);

    /// Empty where no token moves. They point into this object.
    TokenOrders orders(const std::vector<HeadReport>& heads) const;
    const TokenLayout& layout(HeadType type) const { return entry(type).layout; }
    /// Empty where the content or a given mask decides.
    const BlockGrid& grid(HeadType type) const { return entry(type).grid; }

  private:
    struct Entry {
        bool used = false;
        TokenLayout layout;
        BlockGrid grid;
    };
    const Entry& entry(HeadType type) const { return entries_.at(static_cast<std::size_t>(type)); }

    std::array<Entry, 7> entries_;
    bool reorder_ = false;
};

}  // namespace aerogel
