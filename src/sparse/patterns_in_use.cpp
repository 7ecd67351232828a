// One entry per kind of head.
#include "sparse/patterns_in_use.h"

namespace aerogel {

PatternsInUse::PatternsInUse(const SparseSides& sides, const std::vector<HeadReport>& heads) {
    for (const HeadReport& head : heads) {
        Entry& entry = entries_.at(static_cast<std::size_t>(head.type));
        if (entry.used) continue;
        entry.used = true;
        if (head.type == HeadType::dense) {
            entry.layout = {raster_order(sides.q), raster_order(sides.k)};
            entry.grid.assign(static_cast<std::size_t>(sides.q.blocks() * sides.k.blocks()), 1);
            reorder_ = true;
            continue;
        }
        const Pattern& pattern = pattern_of(head.type);
        if (pattern.q_order != nullptr) {
            entry.layout = {pattern.q_order(sides.q), pattern.k_order(sides.k)};
            reorder_ = true;
        }
        if (pattern.static_blocks != nullptr) entry.grid = pattern.static_blocks(sides.q);
    }
}

TokenOrders PatternsInUse::orders(const std::vector<HeadReport>& heads) const {
    TokenOrders result;
    if (!reorder_) return result;
    for (const HeadReport& head : heads) {
        result.q.push_back(layout(head.type).q.data());
        result.k.push_back(layout(head.type).k.data());
    }
    return result;
}

}  // namespace aerogel
