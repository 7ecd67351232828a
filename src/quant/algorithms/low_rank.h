// Low-rank residual: the largest singular directions of a weight stay in the model's type as two thin
// matrices, only the rest, without their outliers, is quantized. Li et al., "SVDQuant" (ICLR 2025), section
// 4; the decomposition is the randomised one of Halko, Martinsson and Tropp (SIAM Review 2011),
// algorithms 4.4 and 5.1.
#pragma once

#include <cstdint>
#include <optional>

#include "aerogel/tensor.h"

namespace aerogel {

struct LowRankOptions {
    std::int64_t rank = 32;
    std::uint64_t seed = 42;
    int power_iterations = 2;
    std::int64_t oversampling = 8;
    std::optional<DType> type;  ///< of l1 and l2; unset: the weight's
};

/// y = x w^T + (x l1^T) l2^T: l1 [rank,k] has orthonormal rows, l2 [n,rank] carries the singular values, both
/// in the type asked for; residual f32 [n,k] = W - l2 l1, with l1 and l2 as rounded.
struct LowRank {
    Tensor l1;
    Tensor l2;
    Tensor residual;
};

/// weight f32|bf16|f16 [n,k]. Results depend on weight and options alone. InvalidArgument when rank is not in
/// 1 .. min(n,k), or the weight is no matrix or not finite.
LowRank split_low_rank(const TensorView& weight, const LowRankOptions& options);

}  // namespace aerogel
