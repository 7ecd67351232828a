// Views and masks of one head of every group.
#include "ops/grouped_heads.h"

namespace aerogel {
namespace {

std::size_t head_axis(AttentionLayout layout) {
    return layout == AttentionLayout::bnsd ? 1 : 2;
}

/// Heads n, n + group, n + 2 group ... of a view.
TensorView every_group(const TensorView& view, std::size_t axis, std::int64_t n, std::int64_t group) {
    TensorView member = view;
    member.strides = strides_of(view);
    member.data = static_cast<std::byte*>(view.data) +
                  n * member.strides[axis] * static_cast<std::int64_t>(size_of(view.dtype));
    member.shape[axis] /= group;
    member.strides[axis] *= group;
    return member;
}

BlockMask every_group(const BlockMask& mask, std::int64_t n, std::int64_t group) {
    BlockMask member = mask;
    member.heads = mask.heads / group;
    member.row_start.assign(1, 0);
    member.columns.clear();
    const std::int64_t rows = mask.q_blocks();
    for (std::int64_t map = n; map < mask.batch * mask.heads; map += group) {
        for (std::int64_t row = map * rows; row < (map + 1) * rows; ++row) {
            const auto begin = mask.columns.begin() + mask.row_start[static_cast<std::size_t>(row)];
            const auto end = mask.columns.begin() + mask.row_start[static_cast<std::size_t>(row) + 1];
            member.columns.insert(member.columns.end(), begin, end);
            member.row_start.push_back(static_cast<std::int64_t>(member.columns.size()));
        }
    }
    return member;
}

std::vector<const std::int32_t*> every_group(const std::vector<const std::int32_t*>& orders, std::int64_t n,
                                             std::int64_t group) {
    std::vector<const std::int32_t*> member;
    for (auto map = static_cast<std::size_t>(n); map < orders.size(); map += static_cast<std::size_t>(group))
        member.push_back(orders[map]);
    return member;
}

}  // namespace

bool has_grouped_heads(const TensorView& q, const TensorView& k, AttentionLayout layout) {
    return q.dim(head_axis(layout)) != k.dim(head_axis(layout));
}

void for_each_group_member(const AttentionViews& views, const AttentionOptions& options,
                           const TokenOrders& orders, FunctionRef<void(const GroupMember&)> attend) {
    const std::size_t axis = head_axis(options.layout);
    const std::int64_t group = views.q.dim(axis) / views.k.dim(axis);
    for (std::int64_t n = 0; n < group; ++n) {
        BlockMask mask;
        if (options.mask != nullptr) mask = every_group(*options.mask, n, group);
        attend({every_group(views.q, axis, n, group),
                every_group(views.o, axis, n, group),
                options.mask != nullptr ? &mask : nullptr,
                {every_group(orders.q, n, group), every_group(orders.k, n, group)}});
    }
}

}  // namespace aerogel
