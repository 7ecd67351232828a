// Computes what a plan says, in the format that the options say.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "ops/attention.h"
#include "sparse/check.h"

namespace aerogel {
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

}  // namespace

AttentionFormat sparse_format_from(std::string_view precision) {
    if (precision == "bf16") return AttentionFormat::none;
    constexpr std::array kFormats = {AttentionFormat::none, AttentionFormat::fp8, AttentionFormat::mix,
                                     AttentionFormat::int8};
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
    options.smooth_k = format != AttentionFormat::fp8 && format != AttentionFormat::mix;
    return options;
}

Tensor hadamard_matrix(std::int64_t head_dim) {
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
    how.mask = plan.dense_because.empty() ? &plan.mask : nullptr;
    attention({attention_op(how), q, k, v, o}, how, orders_of(plan));
}

}  // namespace aerogel
