// The primitives of gpu.h and pairs.h that every card has.
#include "kernels/cuda/primitive_checks/products.cuh"
#include "kernels/cuda/primitives/pairs.h"

namespace aerogel::testing {

/// The warp's first 512 bytes in its own part of shared memory: four tiles of eight rows of 16 bytes.
__device__ inline unsigned char* fetch_tiles(const PrimitiveArgs& a) {
    unsigned char* const to = gpu::shared() + threadIdx.x / 32 * 512;
    gpu::store(to + lane_of_thread() * 16, gpu::load_global<uint4>(a.bytes + lane_of_thread() * 16));
    __syncwarp();
    return to;
}

template <int kTiles, bool kTransposed>
__device__ inline int wrong_tiles(const PrimitiveArgs& a) {
    unsigned char* const tiles = fetch_tiles(a);
    const int lane = lane_of_thread();
    std::uint32_t r[kTiles];
    const unsigned char* const row = tiles + lane % (kTiles * 8) * 16;
    if constexpr (kTiles == 4 && !kTransposed) gpu::ldmatrix_x4(r, row);
    if constexpr (kTiles == 2 && !kTransposed) gpu::ldmatrix_x2(r, row);
    if constexpr (kTiles == 4 && kTransposed) gpu::ldmatrix_x4_trans(r, row);
    if constexpr (kTiles == 2 && kTransposed) gpu::ldmatrix_x2_trans(r, row);
    int wrong = 0;
    for (int tile = 0; tile < kTiles; ++tile) {
        for (int i = 0; i < 2; ++i) {
            const int across = lane % 4 * 2 + i, along = lane / 4;
            const int at = tile * 128 + (kTransposed ? across * 16 + along * 2 : along * 16 + across * 2);
            const unsigned wanted = a.bytes[at] | static_cast<unsigned>(a.bytes[at + 1]) << 8;
            wrong += (r[tile] >> (16 * i) & 0xFFFF) != wanted;
        }
    }
    return wrong;
}

/// Copies of kBytes, of which as many are kept as the lane says; a group that is not waited for may land
/// later, the one before it is there.
template <int kBytes>
__device__ inline int wrong_copies(const PrimitiveArgs& a) {
    unsigned char* const to = gpu::shared() + threadIdx.x * 2 * kBytes;
    const unsigned char* const from = a.bytes + threadIdx.x * 2 * kBytes;
    const int kept = lane_of_thread() % (kBytes + 1);
    gpu::cp_async<kBytes>(to, from, kept);
    gpu::cp_async_commit();
    gpu::cp_async<kBytes>(to + kBytes, from + kBytes);
    gpu::cp_async_commit();
    gpu::cp_async_wait<1>();
    int wrong = 0;
    for (int i = 0; i < kBytes; ++i) wrong += to[i] != (i < kept ? from[i] : 0);
    gpu::cp_async_wait<0>();
    for (int i = kBytes; i < 2 * kBytes; ++i) wrong += to[i] != from[i];
    return wrong;
}

__device__ inline int wrong_kept(const PrimitiveArgs& a) {
    unsigned char* const to = gpu::shared() + threadIdx.x * 16;
    const bool keep = a.bytes[threadIdx.x] % 2 == 0;
    gpu::cp_async16(to, a.bytes + threadIdx.x * 16, keep);
    gpu::cp_async_wait_all();
    int wrong = 0;
    for (unsigned i = 0; i < 16; ++i) wrong += to[i] != (keep ? a.bytes[threadIdx.x * 16 + i] : 0);
    return wrong;
}

template <class T>
__device__ inline int wrong_access(const PrimitiveArgs& a) {
    constexpr unsigned kSize = sizeof(T);
    unsigned char* const place = gpu::shared() + threadIdx.x * kSize;
    gpu::store(place, gpu::load_global<T>(a.bytes + threadIdx.x * kSize));
    gpu::store(place, gpu::load<T>(place));
    int wrong = 0;
    for (unsigned i = 0; i < kSize; ++i) wrong += place[i] != a.bytes[threadIdx.x * kSize + i];
    return wrong;
}

__device__ inline int wrong_lanes(const PrimitiveArgs& a) {
    const int lane = lane_of_thread(), from = a.bytes[lane] % 32;
    const auto of = [](int l) { return 1000 + l * l; };
    int wrong = gpu::lane_id() != lane;
    wrong += gpu::shfl(of(lane), from) != of(from);
    wrong += gpu::shfl(static_cast<double>(of(lane)), from) != static_cast<double>(of(from));
    for (int by = 1; by < 32; by *= 2) {
        wrong += gpu::shfl_xor(of(lane), by) != of(lane ^ by);
        wrong += gpu::shfl_down(of(lane), by) != of(lane + by < 32 ? lane + by : lane);
        wrong += gpu::shfl_up(of(lane), by) != of(lane - by >= 0 ? lane - by : lane);
    }
    std::uint32_t votes = 0;
    for (int l = 0; l < 32; ++l) votes |= static_cast<std::uint32_t>(a.bytes[l] % 2) << l;
    return wrong + (gpu::ballot(a.bytes[lane] % 2 != 0) != votes);
}

/// Two warps write and arrive; two others wait for them at barrier 1 and read. Then those go first at
/// barrier 2.
__device__ inline int wrong_barriers(const PrimitiveArgs& a) {
    auto* const words = reinterpret_cast<std::uint32_t*>(gpu::shared());
    const unsigned t = threadIdx.x, other = t ^ 64;
    int wrong = 0;
    if (t < 64) {
        words[t] = a.bytes[t] + 1U;
        gpu::barrier_arrive(1, 128);
        gpu::barrier_sync(2, 128);
        wrong += words[other] != a.bytes[other] + 1U;
    } else {
        gpu::barrier_sync(1, 128);
        wrong += words[other] != a.bytes[other] + 1U;
        words[t] = a.bytes[t] + 1U;
        gpu::barrier_arrive(2, 128);
    }
    return wrong;
}

/// A float of 0.5 to 2, often half way between two of bf16 or of f16, or beside that.
__device__ inline float random_float(const PrimitiveArgs& a, unsigned i) {
    const std::uint32_t top = a.bytes[i] | static_cast<std::uint32_t>(a.bytes[i + 1]) << 8;
    const unsigned kind = a.bytes[i + 2] % 3, below = a.bytes[i + 3];
    const std::uint32_t low = kind == 0 ? below * 257U : (kind == 1 ? 0x7FFFU : 0x0FFFU) + below % 3;
    return __uint_as_float((0x3F000000U + (top << 16 & 0x00FF0000U)) | (top & 0x8000U) << 16 | low);
}

__device__ inline int wrong_bf16(const PrimitiveArgs& a) {
    const float x = random_float(a, threadIdx.x * 8), y = random_float(a, threadIdx.x * 8 + 4);
    const auto rounded = [](float f) {
        const std::uint32_t bits = __float_as_uint(f);
        return (bits + 0x7FFFU + (bits >> 16 & 1)) >> 16;
    };
    const std::uint32_t packed = gpu::pack_bf16(x, y);
    int wrong = packed != (rounded(x) | rounded(y) << 16);
    return wrong + (__float_as_uint(gpu::float_of_bf16(packed)) != rounded(x) << 16);
}

/// Of 23 bits behind the point ten stay.
__device__ inline int wrong_f16(const PrimitiveArgs& a) {
    const float x = random_float(a, threadIdx.x * 8), y = random_float(a, threadIdx.x * 8 + 4);
    const auto rounded = [](float f) {
        const std::uint32_t bits = __float_as_uint(f), size = bits & 0x7FFFFFFFU;
        return (((size + 0xFFFU + (size >> 13 & 1)) >> 13) - (112U << 10)) | (bits >> 16 & 0x8000U);
    };
    const std::uint32_t packed = gpu::pack_f16(x, y);
    int wrong = packed != (rounded(x) | rounded(y) << 16);
    const std::uint32_t back = (rounded(x) & 0x8000U) << 16 | ((rounded(x) & 0x7FFFU) + (112U << 10)) << 13;
    return wrong + (__float_as_uint(gpu::float_of_f16(packed)) != back);
}

__device__ inline int wrong_pairs(const PrimitiveArgs& a) {
    const float x = gpu::float_of_bf16(gpu::pack_bf16(random_float(a, threadIdx.x * 8), 0.0F));
    const float y = gpu::float_of_bf16(gpu::pack_bf16(random_float(a, threadIdx.x * 8 + 4), 0.0F));
    const std::uint32_t left = gpu::pack_bf16(x, y), right = gpu::pack_bf16(y, y);
    return (gpu::sub_bf16x2(left, right) != gpu::pack_bf16(x - y, y - y)) +
           (gpu::mul_bf16x2(left, right) != gpu::pack_bf16(x * y, y * y));
}

/// Powers within 2 units, whole ones exactly, nothing below the normal numbers; the larger one, or NaN.
__device__ inline int wrong_numbers(const PrimitiveArgs& a) {
    const float x = random_float(a, threadIdx.x * 8) * 16.0F, power = exp2f(x);
    int wrong = !(fabsf(gpu::exp2_fast(x) - power) <= power * 0x1p-21F);
    wrong += gpu::exp2_fast(-7.0F) != 0.0078125F || gpu::exp2_fast(-130.0F) != 0.0F ||
             gpu::exp2_fast(-INFINITY) != 0.0F;
    const float nan = __uint_as_float(0x7FC00000U);
    wrong += gpu::fmax_nan(x, 1.0F) != fmaxf(x, 1.0F);
    wrong += gpu::fmax_nan(nan, x) == gpu::fmax_nan(nan, x) || gpu::fmax_nan(x, nan) == gpu::fmax_nan(x, nan);
    return wrong;
}

}  // namespace aerogel::testing

using namespace aerogel::testing;
namespace gpu = aerogel::gpu;

AEROGEL_CHECK(load_store_1, wrong_access<std::uint8_t>(a))
AEROGEL_CHECK(load_store_4, wrong_access<std::uint32_t>(a))
AEROGEL_CHECK(load_store_8, wrong_access<uint2>(a))
AEROGEL_CHECK(load_store_16, wrong_access<uint4>(a))
AEROGEL_CHECK(cp_async_4, wrong_copies<4>(a))
AEROGEL_CHECK(cp_async_8, wrong_copies<8>(a))
AEROGEL_CHECK(cp_async_16, wrong_copies<16>(a))
AEROGEL_CHECK(cp_async16, wrong_kept(a))
AEROGEL_CHECK(barriers, wrong_barriers(a))
AEROGEL_CHECK(lanes, wrong_lanes(a))
AEROGEL_CHECK(ldmatrix_x2, wrong_tiles<2, false>(a))
AEROGEL_CHECK(ldmatrix_x4, wrong_tiles<4, false>(a))
AEROGEL_CHECK(ldmatrix_x2_trans, wrong_tiles<2, true>(a))
AEROGEL_CHECK(ldmatrix_x4_trans, wrong_tiles<4, true>(a))
AEROGEL_CHECK(mma_s8, wrong_products<int, S8, S8>(a, [](auto& c, auto& x, auto& y) { gpu::mma_s8(c, x, y); }))
AEROGEL_CHECK(mma_u8s8,
              wrong_products<int, U8, S8>(a, [](auto& c, auto& x, auto& y) { gpu::mma_u8s8(c, x, y); }))
AEROGEL_CHECK(mma_bf16, wrong_products<float, NumberBf16, NumberBf16>(a, [](auto& c, auto& x, auto& y) {
                  gpu::mma_bf16(c, x, y);
              }))
AEROGEL_CHECK(mma_f16, wrong_products<float, NumberF16, NumberF16>(a, [](auto& c, auto& x, auto& y) {
                  gpu::mma_f16(c, x, y);
              }))
AEROGEL_CHECK(bf16, wrong_bf16(a))
AEROGEL_CHECK(f16, wrong_f16(a))
AEROGEL_CHECK(pairs, wrong_pairs(a))
AEROGEL_CHECK(numbers, wrong_numbers(a))
