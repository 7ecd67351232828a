// The two halves of a sparse call: from q and k to a plan (planner.h), and from a plan to the output, in the
// format that the options say.
#include "aerogel/sparse_attention.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "base/timed.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "sparse/check.h"
#include "sparse/planned_arrays.h"
#include "sparse/planner.h"

namespace aerogel {

double density_of(const std::vector<SparseHead>& heads) {
    if (heads.empty()) return 1.0;
    double sum = 0.0;
    for (const SparseHead& head : heads) sum += head.density;
    return sum / static_cast<double>(heads.size());
}

namespace {

Tensor copied_to_host(const TensorView& x, const Context& context) {
    Tensor dense(x.dtype, x.shape, x.device);
    copy(x, dense, context);
    return dense.to(Device::cpu);
}

}  // namespace

SparsePlan plan_sparse(const TensorView& q, const TensorView& k, const SparsePattern& pattern,
                       const VideoLayout& video, const SparsePlanOptions& options) {
    const SparseTypeRow& row = sparse_type_row(pattern.type);
    if (q.shape.size() == 3 && k.shape.size() == 3) {
        SparsePlanOptions of_packed = options;
        of_packed.attention.layout = AttentionLayout::bsnd;
        if (options.v.shape.size() == 3) of_packed.v = batch_of_one(options.v);
        return plan_sparse(batch_of_one(q), batch_of_one(k), pattern, video, of_packed);
    }
    const SparseProblem problem{q, k, pattern, video, options, row};
    const SparseSides sides = checked_sides(problem);
    const Device device = planning_device(problem);
    if (q.device != device && looks_at_content(problem)) {
        const Tensor q_here = copied_to_host(q, options.attention.call),
                     k_here = copied_to_host(k, options.attention.call);
        SparsePlanOptions options_here = options;
        Tensor v_here;
        if (pattern.by_error && options.v.data != nullptr) {
            v_here = copied_to_host(options.v, options.attention.call);
            options_here.v = v_here;
        }
        return plan_sparse(q_here, k_here, pattern, video, options_here);
    }
    const Timed timed({.op = "plan_sparse"});
    return make_plan(problem, sides, device);
}

std::shared_ptr<const HeadFacts> facts_of(const SparsePlan& plan) {
    return plan.on_device == nullptr ? nullptr : plan.on_device->facts;
}

std::vector<SparseHead> heads_of(const SparsePlan& plan) {
    return plan.on_device == nullptr ? plan.heads : plan.on_device->facts->heads();
}

SparsePlan on_host(const SparsePlan& plan) {
    SparsePlan here = plan;
    if (plan.on_device == nullptr) return here;
    here.on_device.reset();
    read_plan(*plan.on_device, here);
    if (here.cells.defined()) here.cells = here.cells.to(Device::cpu);
    return here;
}

// --- what a plan says, computed

namespace {

TokenOrders orders_of(const SparsePlan& plan) {
    TokenOrders orders;
    if (plan.orders.empty()) return orders;
    for (const std::size_t index : plan.order_of) {
        orders.q.push_back(plan.orders[index].q.data());
        orders.k.push_back(plan.orders[index].k.data());
    }
    return orders;
}

ListsOnDevice lists_of(const PlannedArrays& arrays) {
    ListsOnDevice lists;
    lists.rows = {values_of<std::int64_t>(arrays.row_start), values_of<std::int32_t>(arrays.columns),
                  values_of<std::int64_t>(arrays.row_end)};
    lists.block_q = arrays.sizes.block_q;
    lists.block_k = arrays.sizes.block_k;
    if (!arrays.q_order.defined()) return lists;
    lists.q_order = static_cast<const std::int32_t* const*>(arrays.q_order.data());
    lists.k_order = static_cast<const std::int32_t* const*>(arrays.k_order.data());
    lists.orders_differ = arrays.facts->chosen;
    return lists;
}

}  // namespace

AttentionFormat sparse_format_from(std::string_view precision) {
    if (precision == "bf16") return AttentionFormat::none;
    constexpr std::array kFormats = {AttentionFormat::none, AttentionFormat::fp8,     AttentionFormat::mix,
                                     AttentionFormat::int8, AttentionFormat::int8_qk, AttentionFormat::mxfp4};
    std::string known;
    for (const AttentionFormat format : kFormats) {
        if (to_string(format) == precision) return format;
        known += (known.empty() ? "" : ", ") + std::string(to_string(format));
    }
    throw InvalidArgument(
        fmt::format("[sparse_attention] precision must be one of {}, got \"{}\"", known, precision));
}

AttentionOptions sparse_options(AttentionFormat format) {
    AttentionOptions options;
    options.format = format;
    options.smooth_k = format == AttentionFormat::none || format == AttentionFormat::int8 ||
                       format == AttentionFormat::int8_qk;
    return options;
}

bool rotates_sparse_calls(AttentionFormat format) {
    return format == AttentionFormat::fp8 || format == AttentionFormat::mxfp4;
}

Tensor hadamard_matrix(std::int64_t head_dim) {
    if (head_dim < 1)
        throw InvalidArgument(
            fmt::format("[sparse_attention] head_dim must be at least 1, got {}", head_dim));
    const std::int64_t order = head_dim & -head_dim;
    Tensor matrix = Tensor::zeros(DType::f32, {head_dim, head_dim});
    auto* const to = matrix.mutable_as<float>();
    const float size = 1.0F / std::sqrt(static_cast<float>(order));
    for (std::int64_t row = 0; row < head_dim; ++row) {
        for (std::int64_t i = 0; i < order; ++i) {
            const auto common = static_cast<std::uint64_t>(row % order & i);
            to[row * head_dim + row / order * order + i] = std::popcount(common) % 2 == 0 ? size : -size;
        }
    }
    return matrix;
}

void attention(const AttentionArrays& arrays, const SparsePlan& plan, const AttentionOptions& options) {
    const auto& [q, k, v, o] = arrays;
    AttentionOptions how = options;
    if (q.shape.size() == 3 && k.shape.size() == 3 && v.shape.size() == 3 && o.shape.size() == 3) {
        how.layout = AttentionLayout::bsnd;
        attention({batch_of_one(q), batch_of_one(k), batch_of_one(v), batch_of_one(o)}, plan, how);
        return;
    }
    check_arrays(arrays, options.layout);
    check_plan(arrays, plan, options);
    how.centroids = plan.dense_because.empty() && (options.centroids || plan.centroids);
    const AttentionViews views = {attention_op(how), q, k, v, o};
    if (plan.on_device != nullptr) {
        attention_there(views, how, lists_of(*plan.on_device));
        return;
    }
    how.mask = plan.dense_because.empty() ? &plan.mask : nullptr;
    attention(views, how, orders_of(plan));
}

}  // namespace aerogel
