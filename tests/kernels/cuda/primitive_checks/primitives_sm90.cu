// The primitives of gpu_sm90.h: a block is one warp group.
#include "kernels/cuda/primitive_checks/products.cuh"
#include "kernels/cuda/primitives/gpu_sm90.h"

namespace aerogel::testing {

__device__ inline std::uint64_t* barrier_place() {
    return reinterpret_cast<std::uint64_t*>(gpu::shared());
}
__device__ inline void begin_barrier(int arrivals) {
    if (threadIdx.x == 0) {
        gpu::mbarrier_init(barrier_place(), arrivals);
        gpu::mbarrier_fence_init();
    }
    __syncthreads();
}

/// Two phases in which each thread writes and reads what another one wrote.
__device__ inline int wrong_mbarriers(const PrimitiveArgs& a) {
    auto* const words = reinterpret_cast<std::uint32_t*>(gpu::shared() + 64);
    begin_barrier(kPrimitiveThreads);
    gpu::mbarrier_wait(barrier_place(), 1);  // over before anything happened
    int wrong = 0;
    for (unsigned phase = 0; phase < 2; ++phase) {
        words[phase * kPrimitiveThreads + threadIdx.x] = a.bytes[threadIdx.x] + phase;
        gpu::mbarrier_arrive(barrier_place());
        gpu::mbarrier_wait(barrier_place(), phase);
        const unsigned other = (threadIdx.x + 77) % kPrimitiveThreads;
        wrong += words[phase * kPrimitiveThreads + other] != a.bytes[other] + phase;
    }
    return wrong;
}

__device__ inline int wrong_runs(const PrimitiveArgs& a) {
    unsigned char* const to = gpu::shared() + 1024;
    begin_barrier(1);
    if (threadIdx.x == 0) {
        gpu::mbarrier_expect(barrier_place(), 1024 + 48);
        gpu::bulk_load(to, a.bytes, 1024, barrier_place());
        gpu::bulk_load(to + 1024, a.bytes + 2048, 48, barrier_place());
    }
    gpu::mbarrier_wait(barrier_place(), 0);
    int wrong = 0;
    for (unsigned i = threadIdx.x; i < 1024 + 48; i += kPrimitiveThreads)
        wrong += to[i] != a.bytes[i < 1024 ? i : i + 1024];
    return wrong;
}

/// A matrix in shared memory as wgmma takes it: rows of 128 bytes, swizzled. Element (row, i) of a row is
/// number(row, i).
template <class N, class Number>
__device__ inline void put_tile(unsigned char* to, int rows, Number number) {
    constexpr int kBytes = N::kBits / 8, kColumns = 128 / kBytes;
    for (int i = static_cast<int>(threadIdx.x); i < rows * kColumns; i += kPrimitiveThreads) {
        const int row = i / kColumns, at = i % kColumns * kBytes;
        unsigned char* const place = to + row * 128 + ((at / 16 ^ row % 8) << 4) + at % 16;
        const std::uint32_t bits = N::bits(number(row, i % kColumns));
        for (int b = 0; b < kBytes; ++b) place[b] = static_cast<unsigned char>(bits >> (8 * b));
    }
}

/// A of the warp group in shared memory or in registers; B along k, or across it.
enum class From { shared, registers };

/// sums += A[64,k] B[n,k]^T in two steps of 32 bytes of k. multiply(sums, a, b, more).
template <class Sum, class N, int kSums, From kFrom, bool kTransposed, class Multiply>
__device__ inline int wrong_group_products(const PrimitiveArgs& args, Multiply multiply) {
    constexpr int kColumns = kSums * 2, kDepth = 256 / N::kBits;
    unsigned char *const tile_a = gpu::shared(), *const tile_b = tile_a + 64 * 128;
    const auto byte_a = [&](int row, int k) { return args.bytes[row * 64 + k % 64]; };
    const auto byte_b = [&](int row, int k) { return args.bytes[4096 + (row * 37 + k) % 8192]; };
    put_tile<N>(tile_a, 64, byte_a);
    if constexpr (kTransposed) {  // 64 columns after the other, rows of one k
        for (int part = 0; part < kColumns / 64; ++part)
            put_tile<N>(tile_b + part * 2 * kDepth * 128, 2 * kDepth,
                        [&](int k, int column) { return byte_b(part * 64 + column, k); });
    } else {
        put_tile<N>(tile_b, kColumns, byte_b);
    }
    gpu::fence_async();
    __syncthreads();
    Sum sums[kSums];
    std::uint32_t registers[2][4];
    const int first = static_cast<int>(threadIdx.x) / 32 * 16;
    for (int step = 0; step < 2; ++step)
        operand_a(registers[step], Numbers<N>{args.bytes + step * kDepth}, first);
    gpu::wgmma_fence();
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        const std::uint64_t b =
            kTransposed ? gpu::descriptor_transposed(tile_b + step * kDepth * 128, 2 * kDepth * 128)
                        : gpu::descriptor(tile_b + step * 32);
        if constexpr (kFrom == From::shared) multiply(sums, gpu::descriptor(tile_a + step * 32), b, step > 0);
        if constexpr (kFrom == From::registers) multiply(sums, registers[step], b, step > 0);
    }
    gpu::wgmma_commit();
    gpu::wgmma_wait<0>(sums);
    int wrong = 0;
#pragma unroll
    for (int v = 0; v < kSums; ++v) {
        const int row = first + lane_of_thread() / 4 + v / 2 % 2 * 8,
                  column = v / 4 * 8 + lane_of_thread() % 4 * 2 + v % 2;
        int wanted = 0;
#pragma unroll 1
        for (int k = 0; k < 2 * kDepth; ++k) wanted += N::value(byte_a(row, k)) * N::value(byte_b(column, k));
        wrong += sums[v] != static_cast<Sum>(wanted);
    }
    return wrong;
}

}  // namespace aerogel::testing

using namespace aerogel::testing;
namespace gpu = aerogel::gpu;

#define AEROGEL_GROUP(check, Sum, N, sums, from, transposed, product)   \
    AEROGEL_CHECK(check,                                                \
                  wrong_group_products<Sum, N, sums, from, transposed>( \
                      a, [](auto& d, const auto& x, auto y, bool more) { gpu::product(d, x, y, more); }))

AEROGEL_CHECK(mbarriers, wrong_mbarriers(a))
AEROGEL_CHECK(bulk_load, wrong_runs(a))
AEROGEL_GROUP(wgmma_s8, int, S8, 32, From::shared, false, wgmma_s8)
AEROGEL_GROUP(wgmma_s8_registers, int, S8, 32, From::registers, false, wgmma_s8)
AEROGEL_GROUP(wgmma_s8_128, int, S8, 64, From::shared, false, wgmma_s8)
AEROGEL_GROUP(wgmma_s8_256, int, S8, 128, From::shared, false, wgmma_s8)
AEROGEL_GROUP(wgmma_e4m3, float, NumberE4M3, 32, From::shared, false, wgmma_e4m3)
AEROGEL_GROUP(wgmma_e4m3_registers, float, NumberE4M3, 32, From::registers, false, wgmma_e4m3)
AEROGEL_GROUP(wgmma_bf16, float, NumberBf16, 32, From::shared, false, wgmma_bf16)
AEROGEL_GROUP(wgmma_bf16_registers, float, NumberBf16, 32, From::registers, false, wgmma_bf16)
AEROGEL_GROUP(wgmma_bf16_transposed, float, NumberBf16, 64, From::registers, true, wgmma_bf16_transposed)
AEROGEL_GROUP(wgmma_f16, float, NumberF16, 32, From::shared, false, wgmma_f16)
AEROGEL_GROUP(wgmma_f16_registers, float, NumberF16, 32, From::registers, false, wgmma_f16)
AEROGEL_GROUP(wgmma_f16_transposed, float, NumberF16, 64, From::registers, true, wgmma_f16_transposed)
