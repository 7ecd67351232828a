// y = x w^T of MX numbers on sm_120, whose tensor cores multiply the scales of both sides themselves (OCP
// Microscaling formats, 2023): tiles and their exponents come to shared memory through several cp.async
// stages. Sums of a slab of 128 columns are added up as float32, as those of fp8 are.
#pragma once

#include "kernels/cuda/linear_numbers.cuh"
#include "kernels/cuda/mx_args.h"
#include "kernels/cuda/primitives/gpu_sm120.h"

namespace aerogel::cuda {

template <MxKind kKind, TileShape T>
struct MxGemm {
    static constexpr int kRowTiles = T.warp_rows / 16, kColumnTiles = T.warp_columns / 8;
    static constexpr int kAcross = T.columns / T.warp_columns;  ///< warps
    static_assert(T.threads == T.rows / T.warp_rows * kAcross * 32 && T.split == 1 && kColumnTiles == 4);
    static constexpr int kXRow = mx_x_bytes(kKind), kWRow = mx_w_bytes(kKind);
    static constexpr int kXBytes = T.rows * kXRow, kWBytes = T.columns * kWRow;
    static constexpr int kStageBytes = mx_stage_bytes(T, kKind);
    static constexpr int kBlocks = kKind == MxKind::fp4 ? 2 : 1, kSteps = 4 / kBlocks;  ///< of 32 columns
    static constexpr int kXCopies = kXBytes / 16 / T.threads, kWCopies = kWBytes / 16 / T.threads;
    static_assert(kXCopies * T.threads * 16 == kXBytes && kWCopies * T.threads * 16 == kWBytes);
    static_assert((T.rows + T.columns) / 4 <= T.threads && T.rows % 4 == 0);

    const MxGemmArgs& a;
    const GemmArgs& g;
    unsigned char* shared;
    int lane, warp_row, warp_column;
    std::int64_t first_row, first_column;
    float total_sum[kRowTiles][kColumnTiles][4];

    __device__ __forceinline__ explicit MxGemm(const MxGemmArgs& args)
        : a(args), g(args.gemm), shared(gpu::shared()) {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        lane = static_cast<int>(threadIdx.x) % 32;
        warp_column = warp % kAcross * T.warp_columns;
        warp_row = warp / kAcross * T.warp_rows;
        // Blocks that run at the same time share rows and columns of tiles: eight rows of tiles at once.
        constexpr int kTogether = 8;
        const int block = static_cast<int>(blockIdx.x), band = block / (kTogether * g.column_tiles);
        const int left = g.row_tiles - band * kTogether, rows = left < kTogether ? left : kTogether;
        const int within = block % (kTogether * g.column_tiles);
        first_row = static_cast<std::int64_t>(band * kTogether + within % rows) * T.rows;
        first_column = static_cast<std::int64_t>(within / rows) * T.columns;
#pragma unroll
        for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i)
            total_sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4] = 0;
    }

    __device__ __forceinline__ void fetch(int slab) const {
        if (slab >= g.slabs) return;
        const std::int64_t x_row = slab * g.x_rows + first_row, w_row = slab * g.w_rows + first_column;
        unsigned char* stage = shared + slab % T.stages * kStageBytes;
        const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
        for (int i = 0; i < kXCopies; ++i) {
            const int at = (i * T.threads + thread) * 16;
            gpu::cp_async16(stage + at, g.x + x_row * kXRow + at);
        }
#pragma unroll
        for (int i = 0; i < kWCopies; ++i) {
            const int at = (i * T.threads + thread) * 16;
            gpu::cp_async16(stage + kXBytes + at, g.w + w_row * kWRow + at);
        }
        if (thread >= (T.rows + T.columns) / 4) return;
        const int row = thread * 4;  // the exponents of four rows
        const std::uint32_t* from =
            row < T.rows ? a.x_words + x_row + row : a.w_words + w_row + (row - T.rows);
        gpu::cp_async16(stage + kXBytes + kWBytes + row * 4, from);
    }

    __device__ __forceinline__ void load_x(std::uint32_t (&x)[kRowTiles][4], const unsigned char* stage,
                                           int step) const {
        const unsigned char* from;
        if constexpr (kKind == MxKind::fp4) {
            from = stage + (warp_row / 8 + lane / 8 % 2) * 8 * kXRow + (step * 2 + lane / 16) * 128 +
                   lane % 8 * 16;
        } else {
            from = stage + (warp_row + lane % 16) * kXRow + ((step * 2 + lane / 16) ^ (lane % 8)) * 16;
        }
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) gpu::ldmatrix_x4(x[i], from + i * 16 * kXRow);
    }

    /// Four tiles of eight columns.
    __device__ __forceinline__ void load_w(std::uint32_t (&w)[kColumnTiles][2], const unsigned char* stage,
                                           int step) const {
        const unsigned char* from = stage + kXBytes + warp_column * kWRow;
        std::uint32_t four[4];
        if constexpr (kKind == MxKind::fp8) {
            from += (lane / 16 * 8 + lane % 8) * kWRow + ((step * 2 + lane / 8 % 2) ^ (lane % 8)) * 16;
#pragma unroll
            for (int j = 0; j < kColumnTiles; j += 2) {
                gpu::ldmatrix_x4(four, from + j * 8 * kWRow);
                w[j][0] = four[0], w[j][1] = four[1];
                w[j + 1][0] = four[2], w[j + 1][1] = four[3];
            }
            return;
        }
        from += lane / 8 * 8 * kWRow + lane % 8 * 16;
        if constexpr (kKind == MxKind::fp4) {
#pragma unroll
            for (int block = 0; block < 2; ++block) {
                gpu::ldmatrix_x4(four, from + (step * 2 + block) * 128);
#pragma unroll
                for (int j = 0; j < 4; ++j) w[j][block] = four[j];
            }
        } else {  // to bits 2 to 5 of bytes
            gpu::ldmatrix_x4(four, from + step * 128);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                w[j][0] = four[j] << 2 & 0x3C3C3C3CU;
                w[j][1] = four[j] >> 2 & 0x3C3C3C3CU;
            }
        }
    }

    __device__ __forceinline__ static void multiply_tile(float (&sum)[4], const std::uint32_t (&x)[4],
                                                         const std::uint32_t (&w)[2], std::uint32_t x_scale,
                                                         std::uint32_t w_scale) {
        if constexpr (kKind == MxKind::fp8) gpu::mma_mxfp8(sum, x, w, x_scale, w_scale);
        if constexpr (kKind == MxKind::fp8_fp4) gpu::mma_mxfp8_fp4(sum, x, w, x_scale, w_scale);
        if constexpr (kKind == MxKind::fp4) gpu::mma_mxfp4(sum, x, w, x_scale, w_scale);
    }

    __device__ __forceinline__ void multiply(const unsigned char* stage) {
        const auto* words = reinterpret_cast<const std::uint32_t*>(stage + kXBytes + kWBytes);
        std::uint32_t x_words[kRowTiles], w_words[kColumnTiles];
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) x_words[i] = words[warp_row + i * 16 + lane / 4 + lane % 2 * 8];
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) w_words[j] = words[T.rows + warp_column + j * 8 + lane / 4];
        float sum[kRowTiles][kColumnTiles][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            std::uint32_t x[kRowTiles][4], w[kColumnTiles][2];
            load_x(x, stage, step);
            load_w(w, stage, step);
#pragma unroll
            for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
                for (int i = 0; i < kRowTiles; ++i)
                    multiply_tile(sum[i][j], x[i], w[j], x_words[i] >> (8 * kBlocks * step),
                                  w_words[j] >> (8 * kBlocks * step));
        }
#pragma unroll
        for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i) {
            float& all = total_sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4];
            all = __fadd_rn(all, sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4]);
        }
    }

    __device__ void run() {
#pragma unroll
        for (int slab = 0; slab < T.stages - 1; ++slab) {
            fetch(slab);
            gpu::cp_async_commit();
        }
        for (int slab = 0; slab < g.slabs; ++slab) {
            gpu::cp_async_wait<T.stages - 2>();
            __syncthreads();  // all have read the stage that is filled now
            fetch(slab + T.stages - 1);
            gpu::cp_async_commit();
            multiply(shared + slab % T.stages * kStageBytes);
        }
        gpu::cp_async_wait<0>();
        write();
    }

    /// Eight neighbours of y in a lane, as neighbour_order says.
    __device__ __forceinline__ void write() const {
        const std::int64_t n = first_column + warp_column + lane % 4 * 8, left = g.n - n;
        const int count = left < 8 ? static_cast<int>(left) : 8;
        if (count <= 0) return;
        float bias[8];
#pragma unroll
        for (int e = 0; e < 8; ++e)
            bias[e] = g.add != nullptr && e < count ? static_cast<const float*>(g.add)[n + e] : -0.0F;
#pragma unroll
        for (int half = 0; half < kRowTiles * 2; ++half) {
            const std::int64_t r = first_row + warp_row + half * 8 + lane / 4;
            if (r >= g.m) continue;
            float values[8];
#pragma unroll
            for (int e = 0; e < 8; ++e)
                values[e] =
                    __fadd_rn(__fmul_rn(total_sum[half / 2][e / 2][half % 2 * 2 + e % 2], g.s_t[r]), bias[e]);
            store_eight(g.y, r * g.y_stride + n, g.y_type, values, count, g.y_aligned != 0);
        }
    }
};

#define AEROGEL_MX_GEMM(name, kind, tile)                                                 \
    extern "C" __global__ void __launch_bounds__(aerogel::cuda::tile.threads)             \
        aerogel_mx_##name(const aerogel::cuda::MxGemmArgs a) {                            \
        aerogel::cuda::MxGemm<aerogel::cuda::MxKind::kind, aerogel::cuda::tile>(a).run(); \
    }

}  // namespace aerogel::cuda
