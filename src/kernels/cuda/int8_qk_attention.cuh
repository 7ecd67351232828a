// Attention with q and k in int8 and v of 16 bits (the format int8_qk) on the tensor cores of sm_80 and
// later: scores are exact integer products, everything behind them is that of attention.cuh. After
// SageAttention (Zhang et al., arXiv 2410.02367). The integers come from int8_scales.cuh; values are read
// where they lie.
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/int8_attention.cuh"
#include "kernels/cuda/int8_qk_args.h"

namespace aerogel::cuda {

/// One kernel, for the functions of attention.cuh and int8_attention.cuh. Rows of bytes are those of v.
template <class T, Int8QkShape kSizes>
struct Int8QkKernel {
    using Element = T;
    static constexpr int kWidth = kSizes.width, kQueryTiles = kSizes.query_tiles, kKeys = kSizes.keys;
    static constexpr int kParts = 1, kRowBytes = kWidth * 2, kWarpRows = kSizes.warp_rows();
    static constexpr int kPlaceBytes = kSizes.place_bytes(), kTops = kSizes.kTops, kRing = kSizes.kRing;
    static constexpr int kQueries = kSizes.queries();
    static constexpr int kChunks = kRowBytes / 16, kChannelTiles = kWidth / 8, kKeyTiles = kKeys / 8;
    static_assert(kKeys * (kWidth + 4) <= kPlaceBytes);
};

template <int kKeys>
struct Int8QkPlan : Plan<kKeys> {
    const unsigned char* blocks;  ///< of the map's keys
};

/// The factor of a row's scores: q_scale log2(e) scale, in shared memory beside the largest score.
template <class Shape>
__device__ __forceinline__ float& factor_of_row(int t, int e) {
    return (&FloatRows<Shape>::top(t, e))[128];
}

template <class Shape>
__device__ __forceinline__ void find_factors(const Int8QkArgs& a, const QueryTile& tile) {
    if (threadIdx.x % 4 != 0) return;
    const int row =
        static_cast<int>(threadIdx.x / 32) * Shape::kWarpRows + static_cast<int>(threadIdx.x % 32 / 4);
#pragma unroll
    for (int i = 0; i < Shape::kQueryTiles * 2; ++i) {
        const int query = tile.first + row + i * 8;
        float factor = 1.0F;
        if (query < tile.last) factor = a.q_scale[tile.map * a.rest.tiles.q_len + query] * a.rest.factor;
        // -infinity of a key that is not seen times 0 would be NaN.
        factor_of_row<Shape>(i / 2, i % 2) = factor == 0.0F ? 0x1p-126F : factor;
    }
}

/// The integers and scales of the keys of a portion, a part of a block.
template <class Shape>
__device__ __forceinline__ void fetch_int8_keys(int place, const unsigned char* blocks, const KeyTile& keys) {
    constexpr int kWidth = Shape::kWidth, kRowChunks = kWidth / 16, kInRows = Shape::kKeys * kRowChunks;
    if (keys.kept == 0) return;
    const unsigned char* const block =
        blocks + static_cast<std::int64_t>(keys.first / kInt8Group) * (kInt8Group * (kWidth + 8));
    const int within = keys.first % kInt8Group;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kInRows + Shape::kKeys / 4;
         i += static_cast<int>(blockDim.x)) {
        const bool of_rows = i < kInRows;
        const int at = of_rows ? byte_chunk_at<kWidth>(i / kRowChunks, i % kRowChunks) : i * 16;
        const int from =
            of_rows ? within * kWidth + i * 16 : kInt8Group * kWidth + within * 4 + (i - kInRows) * 16;
        gpu::cp_async16(gpu::shared() + place + at, block + from);
    }
}

/// Scores as floats, times the scales of the keys.
template <class Shape>
__device__ __forceinline__ void scale_by_keys(
    const std::int32_t (&sums)[Shape::kQueryTiles][Shape::kKeyTiles][4],
    float (&s)[Shape::kQueryTiles][Shape::kKeyTiles][4], int keys) {
    const unsigned char* const scales =
        gpu::shared() + keys + Shape::kKeys * Shape::kWidth + threadIdx.x % 4 * 8;
#pragma unroll
    for (int j = 0; j < Shape::kKeyTiles; ++j) {
        const auto scale = gpu::load<float2>(scales + j * 32);
#pragma unroll
        for (int t = 0; t < Shape::kQueryTiles; ++t)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                s[t][j][i] = (__int_as_float(sums[t][j][i]) - kWhole) * (i % 2 == 0 ? scale.x : scale.y);
    }
}

template <class Shape>
__device__ __forceinline__ void make_int8_plan(Int8QkPlan<Shape::kKeys>& plan, const Int8QkArgs& a,
                                               const QueryTile& tile) {
    const AttentionTiles& tiles = a.rest.tiles;
    const std::int64_t kv_map = tile.map / tiles.group, behind = tile.last + tiles.k_len - tiles.q_len;
    plan.tile = tile;
    plan.values = {MapRows(a.rest.v, kv_map, 2), a.rest.head_dim, a.rest.aligned != 0};
    plan.blocks =
        a.k + kv_map * ((tiles.k_len + kInt8Group - 1) / kInt8Group) * (kInt8Group * (Shape::kWidth + 8));
    plan.walk = KeyWalk<Shape::kKeys>(tiles, tile.mask_row,
                                      a.rest.causal && behind < tiles.k_len ? behind : tiles.k_len);
    for (int i = 0; i < 2; ++i) plan.step(i);
}

template <class Shape>
__device__ __forceinline__ void int8_qk_attention(const Int8QkArgs& a) {
    auto& plan = *reinterpret_cast<Int8QkPlan<Shape::kKeys>*>(gpu::shared());
    static_assert(sizeof(plan) <= Shape::kTops);
    const auto fetch = [&](int place, const KeyTile& keys) {
        fetch_int8_keys<Shape>(place, plan.blocks, keys);
    };
    {
        const QueryTile tile(a.rest.tiles, static_cast<int>(blockDim.x / 32) * Shape::kWarpRows);
        if (tile.first >= tile.last) return;
        if (threadIdx.x == 0) make_int8_plan<Shape>(plan, a, tile);
        __syncthreads();
        fetch_queries<Shape>(a.q, a.rest.tiles.q_len, tile);
        fetch(Ring<Shape>::keys_at(0), plan.portions[0]);
        gpu::cp_async_commit();
        fetch_keys<Shape>(Ring<Shape>::values_at(0), plan.values, plan.portions[0]);
        gpu::cp_async_commit();
        find_factors<Shape>(a, tile);
    }
    const auto multiply = [&](float(&s)[Shape::kQueryTiles][Shape::kKeyTiles][4], int place) {
        std::int32_t sums[Shape::kQueryTiles][Shape::kKeyTiles][4];
        multiply_keys<Shape>(sums, place);
        scale_by_keys<Shape>(sums, s, place);
    };
    attend<Shape>(plan, a.rest, fetch, multiply, [](int t, int e) { return factor_of_row<Shape>(t, e); });
}

}  // namespace aerogel::cuda
