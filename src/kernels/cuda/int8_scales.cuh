// q, k and v of attention to integers, with the scales and means that kernels/attention.h defines, bit for
// bit: largest values as integers (order among floats without sign; what is not finite comes last), sums in
// the order of the contract, divisions as IEEE has them. One pass per tensor reads it once from memory.
#pragma once

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/int8_attention_args.h"

namespace aerogel::cuda {

__device__ __forceinline__ float element_at(const void* data, Elements type, std::int64_t i) {
    if (type == Elements::f32) return static_cast<const float*>(data)[i];
    const std::uint32_t bits = static_cast<const std::uint16_t*>(data)[i];
    return type == Elements::bf16 ? gpu::float_of_bf16(bits) : gpu::float_of_f16(bits);
}

/// |x| as the integer of its bits.
__device__ __forceinline__ std::uint32_t magnitude(float x) {
    return __float_as_uint(x) & 0x7FFFFFFFU;
}

__device__ __forceinline__ float scale_of(std::uint32_t largest) {
    if (largest >= 0x7F800000U) return __uint_as_float(0x7FC00000U);
    const float scale = __fdiv_rn(__uint_as_float(largest), 127.0F);
    return scale == 0.0F ? 1.0F : scale;
}

/// clamp(rint(x / scale + offset)); where the scale is NaN, some integer of that range.
__device__ __forceinline__ int quantize(float x, float scale, float offset) {
    return __float2int_rn(fminf(fmaxf(__fadd_rn(__fdiv_rn(x, scale), offset), -128.0F), 127.0F));
}

__device__ __forceinline__ std::uint32_t largest_of_warp(std::uint32_t x) {
    for (int d = 16; d > 0; d /= 2) {
        const std::uint32_t other = gpu::shfl_xor(x, d);
        x = x > other ? x : other;
    }
    return x;
}

/// One token by one warp: lane l has channels 4 l .. 4 l + 3, and those 128 further.
struct TokenValues {
    float x[2][4];

    __device__ __forceinline__ TokenValues(const AttentionRows& from, Elements type, int head_dim,
                                           const float* mean, std::int64_t map, std::int64_t token) {
        const std::int64_t at = row_at(from, map, token);
        const float* means = mean == nullptr ? nullptr : mean + map * head_dim;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int c = i / 4 * 128 + static_cast<int>(threadIdx.x % 32) * 4 + i % 4;
            x[i / 4][i % 4] = 0.0F;
            if (c < head_dim)
                x[i / 4][i % 4] =
                    __fsub_rn(element_at(from.data, type, at + c), means == nullptr ? 0.0F : means[c]);
        }
    }
    __device__ __forceinline__ std::uint32_t largest() const {
        std::uint32_t most = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const std::uint32_t found = magnitude(x[i / 4][i % 4]);
            most = most > found ? most : found;
        }
        return largest_of_warp(most);
    }
    /// Writes `width` bytes, that of channel c to at(c), zeros behind head_dim; returns the sum of this
    /// lane's integers.
    template <class At>
    __device__ __forceinline__ int store(unsigned char* to, const At& at, int head_dim, int width,
                                         float scale, float offset) const {
        int sum = 0;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int first = part * 128 + static_cast<int>(threadIdx.x % 32) * 4;
            std::uint32_t word = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int q = first + i < head_dim ? quantize(x[part][i], scale, offset) : 0;
                sum += q;
                word |= static_cast<std::uint32_t>(q & 0xFF) << (i * 8);
            }
            if (first < width) gpu::store(to + at(first), word);
        }
        return sum;
    }
};

__device__ __forceinline__ std::int64_t row_of_warp() {
    return static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
}

__device__ __forceinline__ void quantize_queries(const Int8TokensArgs& a) {
    const std::int64_t row = row_of_warp();
    if (row >= a.rows) return;
    const std::int64_t map = row / a.tokens;
    const TokenValues values(a.from, a.elements, a.head_dim, nullptr, map, row % a.tokens);
    const std::uint32_t largest = values.largest();
    const float scale = a.scale == nullptr ? scale_of(largest) : a.scale[row];
    const auto at = [](int c) { return c; };
    values.store(a.to + row * a.width, at, a.head_dim, a.width, scale,
                 a.offset == nullptr ? 0.0F : a.offset[map]);
    if (threadIdx.x % 32 == 0) a.scale_to[row] = scale;
}

__device__ __forceinline__ void quantize_keys(const Int8TokensArgs& a) {
    const std::int64_t row = row_of_warp(), groups = (a.tokens + kInt8Group - 1) / kInt8Group;
    if (row >= a.rows) return;
    const std::int64_t map = row / (groups * kInt8Group), key = row % (groups * kInt8Group);
    const int place = static_cast<int>(key % kInt8Group), block_bytes = kInt8Group * (a.width + 8);
    const int swizzle = a.swizzled != 0 ? place % 8 * 16 : 0;
    // Of rows of 128 bytes, those of the first 128 channels first.
    const auto at = [&](int c) {
        return a.swizzled != 0 ? c / 128 * kInt8Group * 128 + place * 128 + ((c % 128) ^ swizzle)
                               : place * a.width + c;
    };
    unsigned char* const block = a.to + (map * groups + key / kInt8Group) * block_bytes;
    float scale = 0.0F;
    int sum = 0;
    if (key < a.tokens) {
        const TokenValues values(a.from, a.elements, a.head_dim, a.mean, map, key);
        const std::uint32_t largest = values.largest();
        scale = a.scale == nullptr ? scale_of(largest) : a.scale[map * a.tokens + key];
        sum = values.store(block, at, a.head_dim, a.width, scale, a.offset == nullptr ? 0.0F : a.offset[map]);
        for (int d = 16; d > 0; d /= 2) sum += gpu::shfl_xor(sum, d);
    } else {
        for (int c = static_cast<int>(threadIdx.x % 32) * 4; c < a.width; c += 128)
            gpu::store(block + at(c), 0U);
    }
    if (threadIdx.x % 32 == 0) {
        gpu::store(block + kInt8Group * a.width + place * 4, scale);
        gpu::store(block + kInt8Group * (a.width + 4) + place * 4, sum);
    }
}

/// Of the bytes that products take: byte i belongs to this key. A thread's scores are of keys 2t, 2t + 1, 8 +
/// 2t, 9 + 2t ..., and the bytes that it gives must follow each other.
__device__ __forceinline__ int value_key(int i) {
    return i / 16 * 16 + i % 4 / 2 * 8 + i % 16 / 4 * 2 + i % 2;
}

/// One thread per channel of a group; groups of all maps are blocks of threads.
__device__ __forceinline__ void quantize_values(const Int8ValuesArgs& a) {
    const std::int64_t map = blockIdx.x / a.groups, group = blockIdx.x % a.groups, first = group * kInt8Group;
    const int c = static_cast<int>(threadIdx.x);
    const int keys = static_cast<int>(a.tokens - first < kInt8Group ? a.tokens - first : kInt8Group);
    const bool inside = c < a.head_dim;
    const float mean = a.mean == nullptr || !inside ? 0.0F : a.mean[map * a.head_dim + c];
    const std::int64_t scale_at = (map * a.groups + group) * a.head_dim + c;
    const auto value = [&](int key) {
        return __fsub_rn(element_at(a.from.data, a.elements, row_at(a.from, map, first + key) + c), mean);
    };
    float scale = 1.0F;
    if (inside && a.scale != nullptr) {
        scale = a.scale[scale_at];
    } else if (inside) {
        std::uint32_t largest = 0;
        for (int key = 0; key < keys; ++key) {
            const std::uint32_t found = magnitude(value(key));
            largest = largest > found ? largest : found;
        }
        scale = scale_of(largest);
    }
    if (inside && a.scale_to != nullptr) a.scale_to[scale_at] = scale;
    if (a.to == nullptr || c >= a.width) return;
    unsigned char* const block = a.to + (map * a.groups + group) * (a.width * (kInt8Group + 4));
    const float offset = a.offset == nullptr ? 0.0F : a.offset[map];
    for (int chunk = 0; chunk < kInt8Group / 16; ++chunk) {
        std::uint32_t words[4] = {};
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const int key = value_key(chunk * 16 + i);
            const int q = inside && key < keys ? quantize(value(key), scale, offset) : 0;
            words[i / 4] |= static_cast<std::uint32_t>(q & 0xFF) << (i % 4 * 8);
        }
        gpu::store(block + c * kInt8Group + chunk * 16, make_uint4(words[0], words[1], words[2], words[3]));
    }
    gpu::store(block + a.width * kInt8Group + c * 4, scale);
}

/// A block of threads per block of tokens.
__device__ __forceinline__ void block_scales(const Int8BlockScalesArgs& a) {
    const std::int64_t map = blockIdx.x / a.blocks, first = blockIdx.x % a.blocks * a.block;
    const std::int64_t last = first + a.block < a.tokens ? first + a.block : a.tokens;
    const int warp = static_cast<int>(threadIdx.x / 32), warps = static_cast<int>(blockDim.x / 32);
    auto* const of_warps = reinterpret_cast<std::uint32_t*>(gpu::shared());
    std::uint32_t largest = 0;
    for (std::int64_t token = first + warp; token < last; token += warps) {
        const std::uint32_t found = TokenValues(a.from, a.elements, a.head_dim, a.mean, map, token).largest();
        largest = largest > found ? largest : found;
    }
    if (threadIdx.x % 32 == 0) of_warps[warp] = largest;
    __syncthreads();
    for (int i = 0; i < warps; ++i) largest = largest > of_warps[i] ? largest : of_warps[i];
    const float scale = scale_of(largest);
    for (std::int64_t token = first + threadIdx.x; token < last; token += blockDim.x)
        a.scale_to[map * a.tokens + token] = scale;
}

constexpr int kTokensOfSum = 512, kTokensOfFloatSum = 8;  // kMeanTokens and kFloatTokens

/// Of the tokens of a portion that begins with token `begin`.
template <class Value>
__device__ __forceinline__ double sum_of_portion(std::int64_t begin, std::int64_t tokens,
                                                 const Value& value) {
    const std::int64_t end = begin + kTokensOfSum < tokens ? begin + kTokensOfSum : tokens;
    double sum = 0.0;
    for (std::int64_t first = begin; first < end; first += kTokensOfFloatSum) {
        float few = 0.0F;
#pragma unroll
        for (int i = 0; i < kTokensOfFloatSum; ++i)
            if (first + i < end) few = __fadd_rn(few, value(first + i));
        sum = __dadd_rn(sum, static_cast<double>(few));
    }
    return sum;
}

/// One thread per channel of a portion.
__device__ __forceinline__ void sum_tokens(const Int8MeansArgs& a) {
    const std::int64_t map = blockIdx.x / a.portions;
    const int c = static_cast<int>(threadIdx.x);
    if (c >= a.head_dim) return;
    a.sums[static_cast<std::int64_t>(blockIdx.x) * a.head_dim + c] =
        sum_of_portion(blockIdx.x % a.portions * kTokensOfSum, a.tokens, [&](std::int64_t token) {
            return element_at(a.from.data, a.elements, row_at(a.from, map, token) + c);
        });
}

__device__ __forceinline__ void take_means(const Int8MeansArgs& a) {
    const std::int64_t map = blockIdx.x;
    const int c = static_cast<int>(threadIdx.x);
    if (c >= a.head_dim) return;
    double sum = 0.0;
    for (std::int64_t i = 0; i < a.portions; ++i)
        sum = __dadd_rn(sum, a.sums[(map * a.portions + i) * a.head_dim + c]);
    a.mean_to[map * a.head_dim + c] = static_cast<float>(sum / static_cast<double>(a.tokens));
}

}  // namespace aerogel::cuda
