// bf16: float attention. fp8 and mix: quantized attention without smoothing, as in the files made for rf_v3.
// int8: quantized attention as it is by default.
#include "sparse/precision.h"

#include <bit>
#include <cmath>

namespace aerogel {
namespace {

// Blocks of a Hadamard matrix (Sylvester) of the largest power of two that divides head_dim, over the root of
// its order: orthogonal for every head_dim, so that scores stay.
Tensor hadamard_matrix(std::int64_t head_dim) {
    const std::int64_t order = head_dim & -head_dim;
    Tensor matrix = Tensor::zeros(DType::f32, {head_dim, head_dim});
    const float size = 1.0F / std::sqrt(static_cast<float>(order));
    for (std::int64_t row = 0; row < head_dim; ++row) {
        for (std::int64_t i = 0; i < order; ++i) {
            const auto common = static_cast<std::uint64_t>(row % order & i);
            matrix.as<float>()[row * head_dim + row / order * order + i] =
                std::popcount(common) % 2 == 0 ? size : -size;
        }
    }
    return matrix;
}

}  // namespace

void attend(const SparseArrays& arrays, const SparseOptions& options, const BlockMask* mask,
            const TokenOrders& orders) {
    const auto& [q, k, v, o] = arrays;
    if (options.quantized == nullptr && options.precision == SparsePrecision::bf16) {
        const AttentionOptions floats = {
            .layout = options.layout, .mask = mask, .scale = options.scale, .causal = options.is_causal};
        attention({"attention", q, k, v, o}, floats, orders);
        return;
    }
    Tensor matrix;
    AttentionOptions quantized = {.format = AttentionFormat::int8};
    if (options.quantized != nullptr) {
        quantized = *options.quantized;
    } else if (options.precision == SparsePrecision::mix) {
        quantized.format = AttentionFormat::mix;
        quantized.smooth_k = false;
    } else if (options.precision == SparsePrecision::fp8) {
        quantized.format = AttentionFormat::fp8;
        quantized.smooth_k = false;
        quantized.q_rotation = options.q_rotation;
        quantized.k_rotation = options.k_rotation;
        if (options.q_rotation.data == nullptr && options.k_rotation.data == nullptr) {
            matrix = hadamard_matrix(q.dim(3));
            quantized.q_rotation = quantized.k_rotation = matrix;
        }
    }
    quantized.layout = options.layout;
    quantized.mask = mask;
    quantized.scale = options.scale;
    attention({attention_op(quantized), q, k, v, o}, quantized, orders);
}

}  // namespace aerogel
