// A product of int8 as kernels for sm_80 are written: three stages of cp.async, ldmatrix from swizzled tiles,
// mma.sync. The emulator's own sample, and what its tests break.
#include "emulator/kernels/sample_w8a8.h"

#include "kernels/cuda/primitives/gpu.h"

namespace aerogel::emulator {

constexpr int kM = 128, kN = 128, kDepth = 64;

/// Chunks of 16 bytes change places so that eight rows below each other lie in different banks.
__device__ __forceinline__ int swizzled(int row, int chunk) {
    return row * kDepth + ((chunk ^ ((row >> 1) & 3)) << 4);
}

struct Tile {
    const std::int8_t* from;
    int first_row, rows, first_k, k;
};

__device__ __forceinline__ void load_tile(unsigned char* to, const Tile& t) {
    for (int i = static_cast<int>(threadIdx.x); i < kM * kDepth / 16; i += kSampleThreads) {
        const int r = i / 4, c = i % 4, row = t.first_row + r, k = t.first_k + c * 16;
        const bool inside = row < t.rows && k < t.k;
        gpu::cp_async16(to + swizzled(r, c), t.from + (inside ? static_cast<std::int64_t>(row) * t.k + k : 0),
                        inside);
    }
}

__device__ __forceinline__ void load_stage(unsigned char* stages, const SampleW8A8Args& a, int step) {
    unsigned char* to = stages + step % kSampleStages * 2 * kSampleTile;
    const int k = step * kDepth;
    load_tile(to, {a.x, static_cast<int>(blockIdx.y) * kM, a.m, k, a.k});
    load_tile(to + kSampleTile, {a.w, static_cast<int>(blockIdx.x) * kN, a.n, k, a.k});
}

__device__ __forceinline__ void multiply_stage(std::int32_t (&sums)[4][4][4], const unsigned char* x) {
    const unsigned char* w = x + kSampleTile;
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int rows = warp % 2 * 64 + lane % 16, columns = warp / 2 * 32 + lane / 16 * 8 + lane % 8;
#pragma unroll
    for (int kk = 0; kk < kDepth / 32; ++kk) {
        std::uint32_t fx[4][4], fw[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) gpu::ldmatrix_x4(fx[i], x + swizzled(rows + i * 16, kk * 2 + lane / 16));
#pragma unroll
        for (int j = 0; j < 2; ++j)
            gpu::ldmatrix_x4(fw[j], w + swizzled(columns + j * 16, kk * 2 + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) gpu::mma_s8(sums[i][j], fx[i], fw[j / 2] + j % 2 * 2);
        }
    }
}

__device__ __forceinline__ void store_sums(const std::int32_t (&sums)[4][4][4], const SampleW8A8Args& a) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int first_row = static_cast<int>(blockIdx.y) * kM + warp % 2 * 64 + lane / 4;
    const int first_column = static_cast<int>(blockIdx.x) * kN + warp / 2 * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int r = first_row + i * 16 + e / 2 * 8, c = first_column + j * 8 + e % 2;
                if (r >= a.m || c >= a.n) continue;
                const float y = __fmul_rn(__fmul_rn(static_cast<float>(sums[i][j][e]), a.xs[r]), a.ws[c]);
                a.y[static_cast<std::int64_t>(r) * a.n + c] = __fadd_rn(y, a.bias[c]);
            }
        }
    }
}

/// One warp per row.
extern "C" __global__ void aerogel_sample_quantize(SampleQuantizeArgs a) {
    const int lane = static_cast<int>(threadIdx.x);
    const float* x = a.x + static_cast<std::int64_t>(blockIdx.x) * a.k;
    float most = 0;
    for (std::int64_t i = lane; i < a.k; i += 32) most = gpu::fmax_nan(most, fabsf(x[i]));
    for (int d = 16; d > 0; d /= 2) most = gpu::fmax_nan(most, gpu::shfl_xor(most, d));
    const float s = most == 0 ? 1.0F : __fdiv_rn(most, 127.0F);
    if (lane == 0) a.s[blockIdx.x] = s;
    for (std::int64_t i = lane; i < a.k; i += 32) {
        const int q = __float2int_rn(__fdiv_rn(x[i], s));
        a.q[static_cast<std::int64_t>(blockIdx.x) * a.k + i] =
            static_cast<std::int8_t>(max(-128, min(127, q)));
    }
}

extern "C" __global__ void __launch_bounds__(kSampleThreads) aerogel_sample_w8a8(SampleW8A8Args a) {
    unsigned char* stages = gpu::shared();
    std::int32_t sums[4][4][4] = {};
    const int steps = (a.k + kDepth - 1) / kDepth;
    for (int s = 0; s < kSampleStages - 1; ++s) {
        if (s < steps) load_stage(stages, a, s);
        gpu::cp_async_commit();
    }
    for (int t = 0; t < steps; ++t) {
        gpu::cp_async_wait<kSampleStages - 2>();
        __syncthreads();
        if (t + kSampleStages - 1 < steps) load_stage(stages, a, t + kSampleStages - 1);
        gpu::cp_async_commit();
        multiply_stage(sums, stages + t % kSampleStages * 2 * kSampleTile);
    }
    store_sums(sums, a);
}

}  // namespace aerogel::emulator
