// y = x w^T of int8 in slabs (linear_args.h) on Hopper: a thread copies tiles by TMA, as runs of bytes that
// are swizzled in memory already; two warp groups multiply them by wgmma, 64 rows by 256 columns each. Blocks
// stay and take tile after tile, so the copies for the next one are under way while y is written (CUTLASS'
// cooperative, persistent kernels). The order of float operations is that of kernels/linear.h.
#pragma once

#include "kernels/cuda/linear_numbers.cuh"
#include "kernels/cuda/primitives/gpu_sm90.h"

namespace aerogel::cuda {

/// What is multiplied. kSlabSums: the sums of a slab are added up as float32.
struct HopperInt8 {
    using Sum = std::int32_t;
    static constexpr bool kSlabSums = false;
    template <int kSums>
    static __device__ __forceinline__ void multiply(Sum (&sums)[kSums], std::uint64_t x, std::uint64_t w,
                                                    bool accumulate) {
        gpu::wgmma_s8(sums, x, w, accumulate);
    }
};
/// E4M3: the tensor cores keep some 14 bits of such sums (DeepSeek-V3's technical report, 2024).
struct HopperFp8 {
    using Sum = float;
    static constexpr bool kSlabSums = true;
    template <int kSums>
    static __device__ __forceinline__ void multiply(Sum (&sums)[kSums], std::uint64_t x, std::uint64_t w,
                                                    bool accumulate) {
        gpu::wgmma_e4m3(sums, x, w, accumulate);
    }
};
struct HopperBf16 {
    using Sum = float;
    static constexpr bool kSlabSums = false;
    template <int kSums>
    static __device__ __forceinline__ void multiply(Sum (&sums)[kSums], std::uint64_t x, std::uint64_t w,
                                                    bool accumulate) {
        gpu::wgmma_bf16(sums, x, w, accumulate);
    }
};

/// What the kernels of Hopper share: the tiles that a block takes one after the other, and their copies.
template <HopperShape T>
struct HopperTiles {
    static constexpr int kXBytes = T.rows * kSlabBytes;
    static constexpr int kRowBytes = (T.stage_bytes - kXBytes) / T.columns;  ///< of a slab of w
    static constexpr int kConsumers = 256;                                   ///< threads

    const GemmArgs& a;
    unsigned char* shared;
    std::uint64_t *full, *empty;
    int slabs_done = 0;  ///< of all tiles so far

    __device__ __forceinline__ explicit HopperTiles(const GemmArgs& args) : a(args), shared(gpu::shared()) {
        full = reinterpret_cast<std::uint64_t*>(shared + T.stages * T.stage_bytes + T.columns * 16);
        empty = full + T.stages;
    }

    struct Place {
        std::int64_t row, column;
    };

    /// Blocks that run at the same time share rows and columns of tiles: eight rows of tiles at once.
    __device__ __forceinline__ Place place_of(int tile) const {
        constexpr int kTogether = 8;
        const int band = tile / (kTogether * a.column_tiles), within = tile % (kTogether * a.column_tiles);
        const int left = a.row_tiles - band * kTogether, rows = left < kTogether ? left : kTogether;
        return {static_cast<std::int64_t>(band * kTogether + within % rows) * T.rows,
                static_cast<std::int64_t>(within / rows) * T.columns};
    }

    __device__ __forceinline__ int tiles() const { return a.row_tiles * a.column_tiles; }

    /// A stage is free when so many have given it back.
    __device__ __forceinline__ void begin(int arrivals) const {
        if (threadIdx.x == 0) {
            for (int s = 0; s < T.stages; ++s) {
                gpu::mbarrier_init(full + s, 1);
                gpu::mbarrier_init(empty + s, arrivals);
            }
            gpu::mbarrier_fence_init();
        }
        __syncthreads();
    }

    __device__ __forceinline__ void produce() {
        for (int tile = static_cast<int>(blockIdx.x); tile < tiles(); tile += static_cast<int>(gridDim.x)) {
            const Place place = place_of(tile);
            for (int pair = 0; pair < a.pairs; ++pair) {
                const auto parts = static_cast<int>(a.pair_list >> (8 * pair));
                copy_slabs(a.x + (parts & 15) * a.x_plane + place.row * kSlabBytes,
                           a.w + (parts >> 4 & 15) * a.w_plane + place.column * kRowBytes);
            }
        }
    }

    __device__ __forceinline__ void copy_slabs(const unsigned char* x, const unsigned char* w) {
        for (int t = 0; t < a.slabs; ++t, ++slabs_done) {
            const int s = slabs_done % T.stages;
            gpu::mbarrier_wait(empty + s, static_cast<std::uint32_t>(slabs_done / T.stages & 1) ^ 1U);
            gpu::mbarrier_expect(full + s, T.stage_bytes);
            unsigned char* to = shared + s * T.stage_bytes;
            gpu::bulk_load(to, x, kXBytes, full + s);
            gpu::bulk_load(to + kXBytes, w, T.stage_bytes - kXBytes, full + s);
            x += a.x_rows * kSlabBytes;
            w += a.w_rows * kRowBytes;
        }
    }

    /// Scale (null: 1) and addend of the tile's columns. Two buffers: who is ahead fills the one that nobody
    /// reads.
    __device__ __forceinline__ float* fill_columns(const Place& place, int turn, const float* scale) const {
        auto* columns = reinterpret_cast<float*>(shared + T.stages * T.stage_bytes) + turn * T.columns * 2;
        const int i = static_cast<int>(threadIdx.x) - 128;
        if (i >= T.columns) return columns;
        const bool in = place.column + i < a.n;
        columns[i] = in && scale != nullptr ? scale[place.column + i] : 1.0F;
        columns[T.columns + i] =
            in && a.add != nullptr ? static_cast<const float*>(a.add)[place.column + i] : -0.0F;
        return columns;
    }
};

/// What a block does where both operands go from shared memory to the products.
template <typename Kind, HopperShape T>
struct HopperGemm : HopperTiles<T> {
    using Tiles = HopperTiles<T>;
    using Tiles::a, Tiles::shared, Tiles::full, Tiles::empty, Tiles::slabs_done, Tiles::kXBytes,
        Tiles::kConsumers;
    using typename Tiles::Place;
    using Sum = typename Kind::Sum;
    static constexpr int kSums = T.columns / 2;

    __device__ __forceinline__ explicit HopperGemm(const GemmArgs& args) : Tiles(args) {}

    __device__ void run() {
        this->begin(2);
        if (threadIdx.x / 128 == 0) {
            gpu::set_registers_down<40>();
            if (threadIdx.x == 0) this->produce();
        } else {
            gpu::set_registers_up<232>();
            consume(static_cast<int>(threadIdx.x) / 128 - 1);
        }
    }

    __device__ __forceinline__ void consume(int group) {
        const int thread = static_cast<int>(threadIdx.x) % 128;
        int turn = 0;
        for (int tile = static_cast<int>(blockIdx.x); tile < this->tiles();
             tile += static_cast<int>(gridDim.x)) {
            const Place place = this->place_of(tile);
            float* columns = this->fill_columns(place, turn ^= 1, a.scale);
            Sum sums[kSums];
            if constexpr (Kind::kSlabSums) {
                multiply_slabs(sums, group, thread);
            } else {
                multiply(sums, group, thread);
            }
            gpu::barrier_sync(1, kConsumers);  // the columns are there
            write(sums, place, group, columns);
        }
    }

    /// The products of the next slab, as a group; the first ones may begin new sums.
    __device__ __forceinline__ void begin_slab(Sum (&sums)[kSums], int group, bool accumulate) {
        const int s = slabs_done % T.stages;
        gpu::mbarrier_wait(full + s, static_cast<std::uint32_t>(slabs_done / T.stages & 1));
        const unsigned char* x = shared + s * T.stage_bytes + group * 64 * kSlabBytes;
        const unsigned char* w = shared + s * T.stage_bytes + kXBytes;
        gpu::wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            Kind::multiply(sums, gpu::descriptor(x + step * 32), gpu::descriptor(w + step * 32),
                           accumulate || step > 0);
        }
        gpu::wgmma_commit();
    }

    __device__ __forceinline__ void give_back(int slab, int thread) {
        if (thread == 0) gpu::mbarrier_arrive(empty + slab % T.stages);
    }

    __device__ __forceinline__ void multiply(Sum (&sums)[kSums], int group, int thread) {
        for (int t = 0; t < a.slabs * a.pairs; ++t, ++slabs_done) {
            begin_slab(sums, group, t > 0);
            gpu::wgmma_wait<1>(sums);  // the products of the slab before are done
            if (t > 0) give_back(slabs_done - 1, thread);
        }
        gpu::wgmma_wait<0>(sums);
        give_back(slabs_done - 1, thread);
    }

    /// While one warp group adds, the other one multiplies.
    __device__ __forceinline__ void multiply_slabs(Sum (&all)[kSums], int group, int thread) {
#pragma unroll
        for (int i = 0; i < kSums; ++i) all[i] = 0;
        for (int t = 0; t < a.slabs; ++t, ++slabs_done) {
            Sum sums[kSums];
            begin_slab(sums, group, false);
            gpu::wgmma_wait<0>(sums);
            give_back(slabs_done, thread);
#pragma unroll
            for (int i = 0; i < kSums; ++i) all[i] = __fadd_rn(all[i], sums[i]);
        }
    }

    __device__ __forceinline__ void write(const Sum (&sums)[kSums], const Place& place, int group,
                                          const float* columns) const {
        const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32 % 4;
        const std::int64_t row = place.row + group * 64 + warp * 16 + lane / 4;
        float s_t[2] = {1, 1};
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (a.s_t != nullptr && row + half * 8 < a.m) s_t[half] = a.s_t[row + half * 8];
#pragma unroll
        for (int j = 0; j < T.columns / 32; ++j) {
            const int column = j * 32 + lane % 4 * 8;
            const std::int64_t left = a.n - place.column - column;
            float scale[8], addend[8], values[8];
            load_eight(columns, column, Real::f32, scale);
            load_eight(columns, T.columns + column, Real::f32, addend);
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
