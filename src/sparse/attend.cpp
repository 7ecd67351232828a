// Computes what a plan says. Format none: float attention. fp8 and mix: quantized attention without
// smoothing, as in the files made for rf_v3. int8: quantized attention as it is by default.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "ops/attention.h"
#include "sparse/check.h"

namespace aerogel {
namespace {

// Blocks of a Hadamard matrix (Sylvester) of the largest power of two that divides head_dim, over the root of
// its order: orthogonal for every head_dim, so that scores stay.
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
    constexpr std::array kFormats = {AttentionFormat::none, AttentionFormat::fp8, AttentionFormat::mix,
                                     AttentionFormat::int8};
    std::string known;
    for (const AttentionFormat format : kFormats) {
        const std::string_view name = format == AttentionFormat::none ? "bf16" : to_string(format);
        if (name == precision) return format;
        known += (known.empty() ? "" : ", ") + std::string(name);
    }
    throw InvalidArgument(
        fmt::format("[sparse_attention] precision must be one of {}, got \"{}\"", known, precision));
}

void attention(const AttentionArrays& arrays, const SparsePlan& plan, const SparseArithmetic& arithmetic) {
    const auto& [q, k, v, o] = arrays;
    if (q.shape.size() == 3 && k.shape.size() == 3 && v.shape.size() == 3 && o.shape.size() == 3) {
        SparseArithmetic of_packed = arithmetic;
        of_packed.layout = AttentionLayout::bsnd;
        attention({batch_of_one(q), batch_of_one(k), batch_of_one(v), batch_of_one(o)}, plan, of_packed);
        return;
    }
    check_arrays(arrays, arithmetic.layout);
    check_plan(arrays, plan, arithmetic);
    AttentionOptions options = {.causal = arithmetic.is_causal, .format = arithmetic.format};
    Tensor matrix;
    if (arithmetic.quantized != nullptr) {
        options = *arithmetic.quantized;
    } else if (options.format == AttentionFormat::fp8 || options.format == AttentionFormat::mix) {
        options.smooth_k = false;
        options.q_rotation = arithmetic.q_rotation;
        options.k_rotation = arithmetic.k_rotation;
    }
    if (arithmetic.quantized == nullptr && options.format == AttentionFormat::fp8 &&
        options.q_rotation.data == nullptr && options.k_rotation.data == nullptr) {
        matrix = hadamard_matrix(q.dim(3));
        options.q_rotation = options.k_rotation = matrix;
    }
    options.layout = arithmetic.layout;
    options.mask = plan.dense_because.empty() ? &plan.mask : nullptr;
    options.scale = arithmetic.scale;
    attention({attention_op(options), q, k, v, o}, options, orders_of(plan));
}

}  // namespace aerogel
