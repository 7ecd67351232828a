// Int8 attention on the tensor cores of sm_80 and later, as kernels/attention.h defines it: q k^T in int8,
// weights in eight bits relative to the largest of their group of 64 keys, p v in uint8 x int8. Both products
// are exact; what a group gives is scaled and added in float. Integers become floats by addition: a sum that
// starts at the bits of 1.5 * 2^23 is the float 1.5 * 2^23 + sum. After SageAttention2 (Zhang et al. 2024),
// which also lets v lie in the order in which mma.sync gives scores.
#pragma once

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/int8_attention_args.h"

namespace aerogel::cuda {

constexpr float kWhole = 12582912.0F;  ///< 1.5 * 2^23
constexpr std::int32_t kWholeBits = 0x4B400000;
constexpr int kGroupTiles = kInt8Group / 8;  ///< tiles of eight keys

/// One kernel.
template <Int8Shape kSizes>
struct Int8Kernel {
    static constexpr int kWidth = kSizes.width, kQueryTiles = kSizes.query_tiles,
                         kWarpRows = kSizes.warp_rows();
    static constexpr int kKeyBytes = kSizes.key_bytes(), kValueBytes = kSizes.value_bytes();
    static constexpr int kPlaceBytes = kSizes.place_bytes(), kRing = kSizes.kRing,
                         kQueries = kSizes.queries();
    static constexpr int kChannelTiles = kWidth / 8;
};

/// Where a chunk of 16 bytes lies, in rows of kRow bytes: the eight rows that a matrix load reads at once are
/// in different banks. Chunk c of the row of chunk 0 is at place ^ c * 16, where c is even.
template <int kRow>
__device__ __forceinline__ int byte_chunk_at(int row, int chunk) {
    return row * kRow + ((chunk ^ (kRow == 64 ? row / 2 & 3 : row & 7)) << 4);
}

/// The address of the chunk that is bits / 16 chunks on (an even number), in a row whose chunk 0 or 1 is at
/// `p`.
__device__ __forceinline__ const unsigned char* other_chunk(const unsigned char* p, int bits) {
    return reinterpret_cast<const unsigned char*>(reinterpret_cast<std::uintptr_t>(p) ^
                                                  static_cast<std::uintptr_t>(bits));
}

/// As Plan of attention.cuh.
struct Int8Plan {
    QueryTile tile;
    const unsigned char *keys, *values;  ///< blocks of the map
    KeyWalk<kInt8Group> walk;
    KeyTile portions[3];  ///< no bit: no group

    __device__ __forceinline__ void step(int to) {
        KeyTile group;
        if (!walk.next(group)) group.kept = 0;
        portions[to] = group;
    }
};

/// A block of k or v: kRows rows, then what else belongs to it.
template <int kRow, int kRows, int kBytes>
__device__ __forceinline__ void fetch_block(int place, const unsigned char* blocks, const KeyTile& group) {
    if (group.kept == 0) return;
    const unsigned char* from = blocks + static_cast<std::int64_t>(group.first / kInt8Group) * kBytes;
    constexpr int kRowChunks = kRow / 16, kInRows = kRows * kRowChunks;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kBytes / 16; i += static_cast<int>(blockDim.x)) {
        const int at = i < kInRows ? byte_chunk_at<kRow>(i / kRowChunks, i % kRowChunks) : i * 16;
        gpu::cp_async16(gpu::shared() + place + at, from + i * 16);
    }
}

/// Integers of the tile's queries, of those of all maps.
template <class Kernel>
__device__ __forceinline__ void fetch_queries(const unsigned char* q, std::int64_t q_len,
                                              const QueryTile& tile) {
    constexpr int kWidth = Kernel::kWidth, kRowChunks = kWidth / 16;
    const int rows = static_cast<int>(blockDim.x / 32) * Kernel::kWarpRows;
    const unsigned char* from = q + tile.map * q_len * kWidth;
    for (int i = static_cast<int>(threadIdx.x); i < rows * kRowChunks; i += static_cast<int>(blockDim.x)) {
        const int row = i / kRowChunks, query = tile.first + row;
        const bool inside = query < tile.last;
        gpu::cp_async16(gpu::shared() + Kernel::kQueries + byte_chunk_at<kWidth>(row, i % kRowChunks),
                        from + (inside ? static_cast<std::int64_t>(query) * kWidth + i % kRowChunks * 16 : 0),
                        inside);
    }
}

/// What a thread keeps of its queries: rows lane/4 and lane/4 + 8 of every 16-query tile.
template <class Kernel>
struct Int8Rows {
    float o[Kernel::kQueryTiles][Kernel::kChannelTiles][4];
    float sum[Kernel::kQueryTiles][2];  ///< of the weights that this thread has seen
    float poison = 0.0F;                ///< NaN when the scale of a key was

    /// In shared memory, as registers are few: the largest factor t so far, and the factor of x: q_scale
    /// log2(e) scale, NaN where q_scale is. One for the four threads of a row, the first of which writes it.
    static __device__ __forceinline__ float& top(int t, int e) {
        return reinterpret_cast<float*>(
            gpu::shared() +
            Int8Shape::kTops)[threadIdx.x / 32 * Kernel::kWarpRows + t * 16 + e * 8 + threadIdx.x % 32 / 4];
    }
    static __device__ __forceinline__ float& factor(int t, int e) { return (&top(t, e))[128]; }

    __device__ __forceinline__ Int8Rows(const Int8AttentionArgs& a, const QueryTile& tile) {
        const int row =
            static_cast<int>(threadIdx.x / 32) * Kernel::kWarpRows + static_cast<int>(threadIdx.x % 32 / 4);
#pragma unroll
        for (int i = 0; i < Kernel::kQueryTiles * 2; ++i) {
            const int query = tile.first + row + i * 8;
            sum[i / 2][i % 2] = 0.0F;
            if (threadIdx.x % 4 != 0) continue;
            top(i / 2, i % 2) = -INFINITY;
            factor(i / 2, i % 2) =
                query < tile.last ? __fmul_rn(a.q_scale[tile.map * a.tiles.q_len + query], a.factor) : 0.0F;
        }
#pragma unroll
        for (int i = 0; i < Kernel::kQueryTiles * Kernel::kChannelTiles * 4; ++i)
            o[i / 4 / Kernel::kChannelTiles][i / 4 % Kernel::kChannelTiles][i % 4] = 0.0F;
    }
};

/// s = q k^T, from kWholeBits on.
template <class Kernel, int kTiles>
__device__ __forceinline__ void multiply_keys(std::int32_t (&s)[Kernel::kQueryTiles][kTiles][4], int keys) {
    const int lane = static_cast<int>(threadIdx.x % 32),
              row = static_cast<int>(threadIdx.x / 32) * Kernel::kWarpRows;
    const unsigned char* const q_at =
        gpu::shared() + Kernel::kQueries + byte_chunk_at<Kernel::kWidth>(row + lane % 16, lane / 16);
    const unsigned char* const k_at =
        gpu::shared() + keys + byte_chunk_at<Kernel::kWidth>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
    for (int i = 0; i < Kernel::kQueryTiles * kTiles * 4; ++i)
        s[i / 4 / kTiles][i / 4 % kTiles][i % 4] = kWholeBits;
#pragma unroll
    for (int step = 0; step < Kernel::kWidth / 32; ++step) {
        std::uint32_t a[Kernel::kQueryTiles][4];
#pragma unroll
        for (int t = 0; t < Kernel::kQueryTiles; ++t)
            gpu::ldmatrix_x4(a[t], other_chunk(q_at, step * 32) + t * 16 * Kernel::kWidth);
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair) {
            std::uint32_t b[4];
            gpu::ldmatrix_x4(b, other_chunk(k_at, step * 32) + pair * 16 * Kernel::kWidth);
#pragma unroll
            for (int t = 0; t < Kernel::kQueryTiles; ++t) {
                gpu::mma_s8(s[t][pair * 2], a[t], b);
                gpu::mma_s8(s[t][pair * 2 + 1], a[t], b + 2);
            }
        }
    }
}

/// Scores become x = s k_scale as floats, -inf where a key is not kept.
template <class Kernel>
__device__ __forceinline__ void scale_scores(std::int32_t (&s)[Kernel::kQueryTiles][kGroupTiles][4],
                                             Int8Rows<Kernel>& rows, const Int8AttentionArgs& a,
                                             const QueryTile& tile, int keys, std::uint64_t kept) {
    const int column = static_cast<int>(threadIdx.x % 4) * 2;
    const unsigned char* const scales = gpu::shared() + keys + kInt8Group * Kernel::kWidth + column * 4;
    const float offset = a.q_offset == nullptr ? 0.0F : a.q_offset[tile.map];
    kept >>= column;
#pragma unroll
    for (int j = 0; j < kGroupTiles; ++j) {
        const auto scale = gpu::load<float2>(scales + j * 32);
        const auto sums = gpu::load<int2>(scales + kInt8Group * 4 + j * 32);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const bool is_kept = (kept >> (j * 8 + c) & 1) != 0;
            const float k_scale = is_kept ? c == 0 ? scale.x : scale.y : 0.0F,
                        hide = is_kept ? 0.0F : -INFINITY;
            // Whole numbers below 2^24, as is what it is taken from: all exact.
            const float base = __fmaf_rn(offset, __int2float_rn(c == 0 ? sums.x : sums.y), kWhole);
            rows.poison = __fmaf_rn(k_scale, 0.0F, rows.poison);
#pragma unroll
            for (int i = 0; i < Kernel::kQueryTiles * 2; ++i) {
                std::int32_t& x = s[i / 2][j][i % 2 * 2 + c];
                x = __float_as_int(__fmaf_rn(__int_as_float(x) - base, k_scale, hide));
            }
        }
    }
}

/// Weights in bytes as mma.sync takes them, and by what a row's products are multiplied.
template <class Kernel>
struct Int8Weights {
    std::uint32_t p[Kernel::kQueryTiles][kInt8Group / 32][4];
    float factor[Kernel::kQueryTiles][2];
};

/// The weights of x, relative to the largest of the group; sums and o follow the largest of all groups.
template <class Kernel>
__device__ __forceinline__ void take_bytes(const std::int32_t (&x)[Kernel::kQueryTiles][kGroupTiles][4],
                                           Int8Rows<Kernel>& rows, Int8Weights<Kernel>& weights) {
#pragma unroll
    for (int t = 0; t < Kernel::kQueryTiles; ++t)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            float top = -INFINITY;
#pragma unroll
            for (int i = 0; i < kGroupTiles * 2; ++i)
                top = fmaxf(top, __int_as_float(x[t][i / 2][e * 2 + i % 2]));
            top = fmaxf(top, gpu::shfl_xor(top, 1));
            top = fmaxf(top, gpu::shfl_xor(top, 2));
            const float factor = rows.factor(t, e), before = rows.top(t, e);
            std::uint32_t sum = 0;
#pragma unroll
            for (int pair = 0; pair < kGroupTiles / 2; ++pair) {
                std::uint32_t bits[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float power = gpu::exp2_fast(
                        (__int_as_float(x[t][pair * 2 + i / 2][e * 2 + i % 2]) - top) * factor);
                    bits[i] = __float_as_uint(__fmaf_rn(power, 255.0F, kWhole));
                    sum += bits[i];
                }
                weights.p[t][pair / 2][pair % 2 * 2 + e] = __byte_perm(
                    __byte_perm(bits[0], bits[1], 0x0040), __byte_perm(bits[2], bits[3], 0x0040), 0x5410);
            }
            __syncwarp();
            sum -= static_cast<std::uint32_t>(kWholeBits) * (kGroupTiles * 2);
            const float here = top * factor, largest = fmaxf(before, here);
            const float fall = gpu::exp2_fast(before - largest);
            __syncwarp();  // all four have read it
            if (threadIdx.x % 4 == 0) rows.top(t, e) = largest;
            weights.factor[t][e] = gpu::exp2_fast(here - largest);
            rows.sum[t][e] =
                __fmaf_rn(rows.sum[t][e], fall, weights.factor[t][e] * __int2float_rn(static_cast<int>(sum)));
            if (gpu::ballot(fall != 1.0F) != 0) {
#pragma unroll
                for (int d = 0; d < Kernel::kChannelTiles; ++d)
#pragma unroll
                    for (int c = 0; c < 2; ++c) rows.o[t][d][e * 2 + c] *= fall;
            }
        }
}

/// o += F v_scale p v.
template <class Kernel>
__device__ __forceinline__ void add_bytes(Int8Rows<Kernel>& rows, const Int8Weights<Kernel>& weights,
                                          int values) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const unsigned char* const v_at = gpu::shared() + values + byte_chunk_at<kInt8Group>(lane % 8, lane / 8);
    const unsigned char* const scales = gpu::shared() + values + Kernel::kWidth * kInt8Group + lane % 4 * 8;
#pragma unroll
    for (int d = 0; d < Kernel::kChannelTiles; ++d) {
        if (d % 2 == 0) __syncwarp();  // else the compiler has more products under way than registers
        std::uint32_t b[4];
        gpu::ldmatrix_x4(b, v_at + d * 8 * kInt8Group);
        const auto scale = gpu::load<float2>(scales + d * 32);
#pragma unroll
        for (int t = 0; t < Kernel::kQueryTiles; ++t) {
            std::int32_t c[4] = {kWholeBits, kWholeBits, kWholeBits, kWholeBits};
            gpu::mma_u8s8(c, weights.p[t][0], b);
            gpu::mma_u8s8(c, weights.p[t][1], b + 2);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                rows.o[t][d][i] =
                    __fmaf_rn((__int_as_float(c[i]) - kWhole) * (i % 2 == 0 ? scale.x : scale.y),
                              weights.factor[t][i / 2], rows.o[t][d][i]);
        }
    }
}

/// Divides by the sums and adds the mean of v; rows without keys are zeros.
template <class Kernel>
__device__ __forceinline__ void store_int8_rows(const Int8Rows<Kernel>& rows, const Int8AttentionArgs& a,
                                                const QueryTile& tile) {
    const int lane = static_cast<int>(threadIdx.x % 32),
              row = static_cast<int>(threadIdx.x / 32) * Kernel::kWarpRows;
    const float* shift = a.v_shift == nullptr ? nullptr : a.v_shift + tile.map / a.tiles.group * a.head_dim;
    float poison = rows.poison + gpu::shfl_xor(rows.poison, 1);
    poison += gpu::shfl_xor(poison, 2);
#pragma unroll
    for (int i = 0; i < Kernel::kQueryTiles * 2; ++i) {
        float sum = rows.sum[i / 2][i % 2];
        sum += gpu::shfl_xor(sum, 1);
        sum += gpu::shfl_xor(sum, 2);
        const bool empty = sum == 0.0F && poison == 0.0F;
        sum += poison + rows.factor(i / 2, i % 2) * 0.0F;
        const int query = tile.first + row + lane / 4 + i * 8;
        if (query >= tile.last) continue;
        if (a.lse != nullptr && lane % 4 == 0)
            a.lse[tile.map * a.tiles.q_len + token_of(a.o, tile.map, query)] =
                empty ? -INFINITY : rows.top(i / 2, i % 2) * 0.693147181F + logf(sum * (1.0F / 255.0F));
        const std::int64_t at = row_at(a.o, tile.map, query);
        void* const o = const_cast<void*>(a.o.data);
#pragma unroll
        for (int j = 0; j < Kernel::kChannelTiles * 2; ++j) {
            const int channel = j / 2 * 8 + lane % 4 * 2 + j % 2;
            if (channel >= a.head_dim) continue;
            float x = __fdividef(rows.o[i / 2][j / 2][i % 2 * 2 + j % 2], sum);
            if (shift != nullptr) x = __fadd_rn(x, shift[channel]);
            if (empty) x = 0.0F;
            if (a.out == Elements::f32)
                static_cast<float*>(o)[at + channel] = x;
            else
                static_cast<std::uint16_t*>(o)[at + channel] = static_cast<std::uint16_t>(
                    a.out == Elements::bf16 ? gpu::pack_bf16(x, x) : gpu::pack_f16(x, x));
        }
    }
}

template <class Kernel>
__device__ __forceinline__ void int8_attention(const Int8AttentionArgs& a) {
    auto& plan = *reinterpret_cast<Int8Plan*>(gpu::shared());
    static_assert(sizeof(plan) <= Int8Shape::kTops);
    const auto fetch_keys = [&](int place, const KeyTile& group) {
        fetch_block<Kernel::kWidth, kInt8Group, Kernel::kKeyBytes>(place, plan.keys, group);
    };
    const auto fetch_values = [&](int place, const KeyTile& group) {
        fetch_block<kInt8Group, Kernel::kWidth, Kernel::kValueBytes>(place, plan.values, group);
    };
    const QueryTile tile(a.tiles, static_cast<int>(blockDim.x / 32) * Kernel::kWarpRows);
    if (tile.first >= tile.last) return;
    if (threadIdx.x == 0) {
        const std::int64_t groups = (a.tiles.k_len + kInt8Group - 1) / kInt8Group;
        plan.tile = tile;
        plan.keys = a.k + tile.map / a.tiles.group * groups * Kernel::kKeyBytes;
        plan.values = a.v + tile.map / a.tiles.group * groups * Kernel::kValueBytes;
        plan.walk = KeyWalk<kInt8Group>(a.tiles, tile.mask_row, a.tiles.k_len);
        for (int i = 0; i < 2; ++i) plan.step(i);
    }
    __syncthreads();
    fetch_queries<Kernel>(a.q, a.tiles.q_len, tile);
    fetch_keys(Ring<Kernel>::keys_at(0), plan.portions[0]);
    gpu::cp_async_commit();
    fetch_values(Ring<Kernel>::values_at(0), plan.portions[0]);
    gpu::cp_async_commit();
    Int8Rows<Kernel> rows(a, tile);
    const auto weigh = [&](Int8Weights<Kernel>& weights, const KeyTile& keys, int place) {
        std::int32_t s[Kernel::kQueryTiles][kGroupTiles][4];
        multiply_keys<Kernel>(s, place);
        scale_scores<Kernel>(s, rows, a, plan.tile, place, keys.kept);
        take_bytes<Kernel>(s, rows, weights);
    };
    go_round<Ring<Kernel>, Int8Weights<Kernel>>(
        plan, fetch_keys, fetch_values, weigh,
        [&](const Int8Weights<Kernel>& weights, int place) { add_bytes<Kernel>(rows, weights, place); });
    __syncwarp();
    store_int8_rows<Kernel>(rows, a, plan.tile);
}

}  // namespace aerogel::cuda
