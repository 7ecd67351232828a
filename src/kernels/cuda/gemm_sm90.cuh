// y = x w^T of int8 in slabs (linear_args.h) on Hopper: a thread copies tiles by TMA, as runs of bytes that
// are swizzled in memory already; two warp groups multiply them by wgmma, 64 rows by 256 columns each. Blocks
// stay and take tile after tile, so the copies for the next one are under way while y is written (CUTLASS'
// cooperative, persistent kernels). The order of float operations is that of kernels/linear.h.
#pragma once

#include "kernels/cuda/linear_numbers.cuh"
#include "kernels/cuda/primitives/gpu_sm90.h"

namespace aerogel::cuda {

/// What a block does.
struct HopperGemm {
    static constexpr int kSums = kHopperColumns / 2;
    static constexpr int kXBytes = kHopperRows * kSlabBytes;
    static constexpr int kConsumers = 256;  ///< threads

    const GemmArgs& a;
    unsigned char* shared;
    std::uint64_t *full, *empty;
    int slabs_done = 0;  ///< of all tiles so far

    __device__ __forceinline__ explicit HopperGemm(const GemmArgs& args) : a(args), shared(gpu::shared()) {
        full = reinterpret_cast<std::uint64_t*>(shared + kHopperStages * kHopperStageBytes +
                                                kHopperColumns * 16);
        empty = full + kHopperStages;
    }

    struct Place {
        std::int64_t row, column;
    };

    /// Blocks that run at the same time share rows and columns of tiles: eight rows of tiles at once.
    __device__ __forceinline__ Place place_of(int tile) const {
        constexpr int kTogether = 8;
        const int band = tile / (kTogether * a.column_tiles), within = tile % (kTogether * a.column_tiles);
        const int left = a.row_tiles - band * kTogether, rows = left < kTogether ? left : kTogether;
        return {static_cast<std::int64_t>(band * kTogether + within % rows) * kHopperRows,
                static_cast<std::int64_t>(within / rows) * kHopperColumns};
    }

    __device__ __forceinline__ int tiles() const { return a.row_tiles * a.column_tiles; }

    __device__ void run() {
        if (threadIdx.x == 0) {
            for (int s = 0; s < kHopperStages; ++s) {
                gpu::mbarrier_init(full + s, 1);
                gpu::mbarrier_init(empty + s, 2);
            }
            gpu::mbarrier_fence_init();
        }
        __syncthreads();
        if (threadIdx.x / 128 == 0) {
            gpu::set_registers_down<40>();
            if (threadIdx.x == 0) produce();
        } else {
            gpu::set_registers_up<232>();
            consume(static_cast<int>(threadIdx.x) / 128 - 1);
        }
    }

    __device__ __forceinline__ void produce() {
        for (int tile = static_cast<int>(blockIdx.x); tile < tiles(); tile += static_cast<int>(gridDim.x)) {
            const Place place = place_of(tile);
            const unsigned char *x = a.x + place.row * kSlabBytes, *w = a.w + place.column * kSlabBytes;
            for (int t = 0; t < a.slabs; ++t, ++slabs_done) {
                const int s = slabs_done % kHopperStages;
                gpu::mbarrier_wait(empty + s,
                                   static_cast<std::uint32_t>(slabs_done / kHopperStages & 1) ^ 1U);
                gpu::mbarrier_expect(full + s, kHopperStageBytes);
                unsigned char* to = shared + s * kHopperStageBytes;
                gpu::bulk_load(to, x, kXBytes, full + s);
                gpu::bulk_load(to + kXBytes, w, kHopperStageBytes - kXBytes, full + s);
                x += a.x_rows * kSlabBytes;
                w += a.w_rows * kSlabBytes;
            }
        }
    }

    __device__ __forceinline__ void consume(int group) {
        const int thread = static_cast<int>(threadIdx.x) % 128;
        int turn = 0;
        for (int tile = static_cast<int>(blockIdx.x); tile < tiles(); tile += static_cast<int>(gridDim.x)) {
            const Place place = place_of(tile);
            float* columns = fill_columns(place, turn ^= 1);
            std::int32_t sums[kSums];
            multiply(sums, group, thread);
            gpu::barrier_sync(1, kConsumers);  // the columns are there
            write(sums, place, group, columns);
        }
    }

    __device__ __forceinline__ void multiply(std::int32_t (&sums)[kSums], int group, int thread) {
        for (int t = 0; t < a.slabs; ++t, ++slabs_done) {
            const int s = slabs_done % kHopperStages;
            gpu::mbarrier_wait(full + s, static_cast<std::uint32_t>(slabs_done / kHopperStages & 1));
            const unsigned char* x = shared + s * kHopperStageBytes + group * 64 * kSlabBytes;
            const unsigned char* w = shared + s * kHopperStageBytes + kXBytes;
            gpu::wgmma_fence();
#pragma unroll
            for (int step = 0; step < 4; ++step)
                gpu::wgmma_s8(sums, gpu::descriptor(x + step * 32), gpu::descriptor(w + step * 32),
                              t > 0 || step > 0);
            gpu::wgmma_commit();
            gpu::wgmma_wait<1>(sums);  // the products of the slab before are done
            if (t > 0 && thread == 0) gpu::mbarrier_arrive(empty + (slabs_done - 1) % kHopperStages);
        }
        gpu::wgmma_wait<0>(sums);
        if (thread == 0) gpu::mbarrier_arrive(empty + (slabs_done - 1) % kHopperStages);
    }

    /// Scale and addend of the tile's columns. Two buffers: who is ahead fills the one that nobody reads.
    __device__ __forceinline__ float* fill_columns(const Place& place, int turn) const {
        auto* columns =
            reinterpret_cast<float*>(shared + kHopperStages * kHopperStageBytes) + turn * kHopperColumns * 2;
        const int i = static_cast<int>(threadIdx.x) - 128;
        const bool in = place.column + i < a.n;
        columns[i] = in ? a.scale[place.column + i] : 1.0F;
        columns[kHopperColumns + i] =
            in && a.add != nullptr ? static_cast<const float*>(a.add)[place.column + i] : -0.0F;
        return columns;
    }

    __device__ __forceinline__ void write(const std::int32_t (&sums)[kSums], const Place& place, int group,
                                          const float* columns) const {
        const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
        const std::int64_t row = place.row + group * 64 + warp * 16 + lane / 4;
        float s_t[2] = {1, 1};
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (a.s_t != nullptr && row + half * 8 < a.m) s_t[half] = a.s_t[row + half * 8];
#pragma unroll
        for (int j = 0; j < kHopperColumns / 32; ++j) {
            const int column = j * 32 + lane % 4 * 8;
            const std::int64_t left = a.n - place.column - column;
            float scale[8], addend[8], values[8];
            load_eight(columns, column, Real::f32, scale);
            load_eight(columns, kHopperColumns + column, Real::f32, addend);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (row + half * 8 >= a.m || left <= 0) continue;
#pragma unroll
                for (int e = 0; e < 8; ++e)
                    values[e] = scaled(a, sums[j * 16 + e / 2 * 4 + half * 2 + e % 2], s_t[half], scale[e],
                                       addend[e]);
                store_eight(a.y, (row + half * 8) * a.y_stride + place.column + column, a.y_type, values,
                            left < 8 ? static_cast<int>(left) : 8, a.y_aligned != 0);
            }
        }
    }
};

}  // namespace aerogel::cuda
