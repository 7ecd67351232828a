// What the rounding passes of attention on CUDA are called with: rows of f32, [maps][tokens][head_dim],
// rounded in place.
#pragma once

#include "kernels/cuda/int8_attention_args.h"

namespace aerogel::cuda {

/// Rows of a call as f32, less a mean.
struct RoundCopyArgs {
    AttentionRows from;
    Elements elements = Elements::f32;
    std::int32_t head_dim = 0;
    std::int64_t tokens = 0, rows = 0;  ///< rows = maps * tokens
    const float* mean = nullptr;        ///< [maps, head_dim] or null
    float* to = nullptr;
};

/// Means over the tokens of each channel: `from` as it is, summed in the order of the tokens, or as for int8
/// (kernels/attention.h: kMeanTokens).
struct RoundMeansArgs {
    AttentionRows from;
    Elements elements = Elements::f32;
    std::int32_t head_dim = 0;
    std::int32_t as_int8 = 0;
    std::int64_t tokens = 0;
    float* to = nullptr;  ///< [maps, head_dim]
};

/// What values become, relative to their scale.
enum class NumberGrid : std::int32_t { whole, e4m3, e2m1 };

/// How E2M1 finds the power of two of a block, as Mxfp4Scale.
struct RoundArgs {
    float* data = nullptr;
    NumberGrid grid = NumberGrid::e4m3;
    std::int32_t powers = 0;  ///< scales are powers of two: of MX
    std::int32_t algorithm = 0;
    float dst_type_max = 0.0F;
    std::int32_t head_dim = 0;
    std::int64_t tokens = 0, rows = 0;
    std::int64_t block = 1, blocks = 0;  ///< tokens that share a scale, of a map
    std::int32_t channels = 0, parts = 0;
};

}  // namespace aerogel::cuda
