// y = x w^T of weights in codes of four or eight bits, or in groups, on Hopper. wgmma takes its first operand
// from registers too, so the operands change sides: a warp group has 128 columns of y, whose codes become
// integers or bf16 in registers (gemm_weights.cuh), and all 128 rows of x, which stay in shared memory. What
// CUTLASS' kernels of mixed types and Machete (Wilkinson, "Introducing Machete", 2024) do; as there, codes
// lie as the lanes want them. A lane has one scale for many sums, so scales of groups cost it four registers.
// The order of float operations is that of kernels/linear.h.
#pragma once

#include "kernels/cuda/gemm_sm90.cuh"
#include "kernels/cuda/gemm_weights.cuh"

namespace aerogel::cuda {

/// kGroups: w has a scale per group of columns of x, and sums of a group are added up as floats. Of the 32
/// columns of y of a warp, 16 are a tile: 64 of the warp group are one product.
template <typename Kind, HopperShape T, bool kGroups>
struct HopperCodes : HopperTiles<T> {
    using Tiles = HopperTiles<T>;
    using Tiles::a, Tiles::shared, Tiles::slabs_done, Tiles::kXBytes, Tiles::kRowBytes;
    using typename Tiles::Place;
    using Sum = typename Kind::Sum;
    static constexpr int kSums = T.rows / 2;
    static constexpr int kChunk = Kind::kIntegers ? kMostHopperGroup : 2;  ///< steps of products at once
    static_assert(T.columns == 256 && Kind::kBytes == kRowBytes);

    int lane, column;  ///< the first of the warp's columns of a block's
    int slabs_seen = 0;
    float scale[kGroups ? 4 : 1];                       ///< of the columns of tile i at 2 i
    std::uint32_t offset[2] = {}, next_offset[2] = {};  ///< two bf16 of each tile, of this group and the next

    __device__ __forceinline__ explicit HopperCodes(const GemmArgs& args) : Tiles(args) {
        lane = static_cast<int>(threadIdx.x) % 32;
        column = (static_cast<int>(threadIdx.x) / 32 - 4) * 32;
    }

    __device__ void run() {
        this->begin(8);  // the warps that read w
        if (threadIdx.x / 128 == 0) {
            gpu::set_registers_down<24>();
            if (threadIdx.x == 0) this->produce();
        } else {
            gpu::set_registers_up<240>();
            consume();
        }
    }

    __device__ __forceinline__ void consume() {
        int turn = 0;
        for (int tile = static_cast<int>(blockIdx.x); tile < this->tiles();
             tile += static_cast<int>(gridDim.x)) {
            const Place place = this->place_of(tile);
            // A warp reads what its own lanes filled; give_back() has let them meet by then.
            float* columns = this->fill_columns(place, turn ^= 1, kGroups ? nullptr : a.scale);
            if constexpr (kGroups) {
                float all[2][kSums];
                multiply_groups(all, place);
                write(all, place, columns);
            } else {
                Sum sums[2][kSums];
                multiply_rows(sums);
                write(sums, place, columns);
            }
        }
    }

    __device__ __forceinline__ const unsigned char* stage_of(int slab) const {
        return shared + slab % T.stages * T.stage_bytes;
    }

    __device__ __forceinline__ void see(int slab) {
        for (; slabs_seen <= slab; ++slabs_seen)
            gpu::mbarrier_wait(Tiles::full + slabs_seen % T.stages,
                               static_cast<std::uint32_t>(slabs_seen / T.stages & 1));
    }

    __device__ __forceinline__ void give_back(int slab) const {
        __syncwarp();
        if (lane == 0) gpu::mbarrier_arrive(Tiles::empty + slab % T.stages);
    }

    /// w of a step of a slab for one tile, as wgmma takes it.
    __device__ __forceinline__ void load(std::uint32_t (&fragment)[4], const unsigned char* stage, int step,
                                         int tile) const {
        const unsigned char* w = stage + kXBytes + (column + tile * 16) * kRowBytes;
        if constexpr (kRowBytes == kSlabBytes) {
            gpu::ldmatrix_x4(fragment,
                             w + lane % 16 * kSlabBytes + ((step * 2 + lane / 16) ^ (lane % 8)) * 16);
        } else {
            std::uint32_t words[2];
            gpu::ldmatrix_x2(
                words, w + lane / 8 % 2 * 8 * kRowBytes + step / (64 / kRowBytes) * 128 + lane % 8 * 16);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                std::uint32_t b[2], both = 0;
                if constexpr (Kind::kOffsets)
                    both = __byte_perm(offset[tile], 0, half == 0 ? 0x1010 : 0x3232);
                Kind::unpack(words[half], step, both, a, b);
                fragment[half] = b[0];
                fragment[half + 2] = b[1];
            }
        }
    }

    __device__ __forceinline__ static void multiply(Sum (&sums)[kSums], const std::uint32_t (&fragment)[4],
                                                    const unsigned char* x, bool accumulate) {
        if constexpr (Kind::kIntegers) {
            gpu::wgmma_s8(sums, fragment, gpu::descriptor(x), accumulate);
        } else {
            gpu::wgmma_bf16(sums, fragment, gpu::descriptor(x), accumulate);
        }
    }

    // --- one scale per row ---

    __device__ __forceinline__ void multiply_rows(Sum (&sums)[2][kSums]) {
        for (int t = 0; t < a.slabs; ++t, ++slabs_done) {
            std::uint32_t fragments[4][2][4];
            see(slabs_done);
            const unsigned char* stage = stage_of(slabs_done);
#pragma unroll
            for (int step = 0; step < 4; ++step) {
                load(fragments[step][0], stage, step, 0);
                load(fragments[step][1], stage, step, 1);
                gpu::wgmma_fence();
                multiply(sums[0], fragments[step][0], stage + step * 32, t > 0 || step > 0);
                multiply(sums[1], fragments[step][1], stage + step * 32, t > 0 || step > 0);
                gpu::wgmma_commit();
            }
            gpu::wgmma_wait<0>(sums[0]);
            gpu::wgmma_hold(sums[1]);
            give_back(slabs_done);
        }
    }

    // --- groups ---

    /// Sums of integers need the whole group; those of floats may be added up in parts.
    __device__ __forceinline__ void multiply_groups(float (&all)[2][kSums], const Place& place) {
#pragma unroll
        for (int i = 0; i < 2 * kSums; ++i) all[i / kSums][i % kSums] = 0;
        const int pairs = Kind::kIntegers ? 1 : a.pairs;
        for (int pair = 0; pair < pairs; ++pair, slabs_done += a.slabs) {
            int step = 0, given = 0;
            read_offsets(place, 0);
            for (int group = 0; group < a.groups; ++group) {
                read_scales(place, group);
                read_offsets(place, group + 1);
                for (int left = a.group_steps; left > 0;) {
                    const int count = left < kChunk ? left : kChunk;
#pragma unroll
                    for (int tile = 0; tile < 2; ++tile) {
                        Sum sums[kSums];
                        multiply_steps(sums, step, count, tile);
                        add(all[tile], sums, tile);
                    }
                    step += count;
                    left -= count;
                    for (; given < step / 4; ++given) give_back(slabs_done + given);
                }
            }
            see(slabs_done + a.slabs - 1);
            for (; given < a.slabs; ++given) give_back(slabs_done + given);
        }
    }

    /// The scales of a group: columns of y that lie two apart.
    __device__ __forceinline__ void read_scales(const Place& place, int group) {
        const float* from = a.scale + group * a.w_rows + place.column + column + lane / 8 * 8 + lane / 4 % 2;
#pragma unroll
        for (int i = 0; i < 4; ++i) scale[i] = from[2 * i];
    }

    /// Of a group in the next registers, what these hold in the others: they are on their way meanwhile.
    __device__ __forceinline__ void read_offsets(const Place& place, int group) {
        if constexpr (Kind::kOffsets) {
            if (a.offset == nullptr) return;
            const float* from = a.offset + group * a.w_rows + place.column + column + lane / 4;
#pragma unroll
            for (int tile = 0; tile < 2; ++tile) {
                offset[tile] = next_offset[tile];
                if (group < a.groups)
                    next_offset[tile] = bf16_of(from[tile * 16]) | bf16_of(from[tile * 16 + 8]) << 16;
            }
        }
    }

    /// At most kChunk steps: code for each number of them, as wgmma bears no branch between.
    template <int kCount = kChunk>
    __device__ __forceinline__ void multiply_steps(Sum (&sums)[kSums], int first, int count, int tile) {
        if constexpr (kCount > 1)
            if (count < kCount) return multiply_steps<kCount - 1>(sums, first, count, tile);
        std::uint32_t fragments[kCount][4];
        see(slabs_done + (first + kCount - 1) / 4);
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            load(fragments[i], stage_of(slabs_done + (first + i) / 4), (first + i) % 4, tile);
        gpu::wgmma_fence();
#pragma unroll
        for (int i = 0; i < kCount; ++i)
            multiply(sums, fragments[i], stage_of(slabs_done + (first + i) / 4) + (first + i) % 4 * 32,
                     i > 0);
        gpu::wgmma_commit();
        gpu::wgmma_wait<0>(sums);
    }

    /// While one warp group adds, the other one multiplies.
    __device__ __forceinline__ void add(float (&all)[kSums], const Sum (&sums)[kSums], int tile) const {
#pragma unroll
        for (int i = 0; i < kSums; ++i) {
            const float by = scale[tile * 2 + i / 2 % 2];
            if constexpr (Kind::kIntegers) {  // exact: at most 2^23
                constexpr float kUnit = 1.0F / static_cast<float>(1 << Kind::kShift);
                const float sum = __fmul_rn(static_cast<float>(sums[i]), kUnit);
                all[i] = __fadd_rn(all[i], __fmul_rn(sum, by));
            } else {
                all[i] = __fmaf_rn(sums[i], by, all[i]);
            }
        }
    }

    // --- epilogue ---

    template <typename Value>
    __device__ __forceinline__ float finished(Value value, float s_t, float scale_of, float addend) const {
        if constexpr (kGroups) {
            return __fadd_rn(__fmul_rn(value, s_t), addend);
        } else {
            return scaled(a, value >> Kind::kShift, s_t, scale_of, addend);
        }
    }

    /// A lane has four of eight neighbours for two rows of y each, the one 4 lanes on the others: they change
    /// halves, so that each has eight of one row.
    template <typename Value>
    __device__ __forceinline__ void write(const Value (&all)[2][kSums], const Place& place,
                                          const float* columns) const {
        const int odd = lane / 4 % 2, first = column + lane / 8 * 8;
        const std::int64_t left = a.n - place.column - first;
        float scale_of[8], addend[8];
        load_eight(columns, first, Real::f32, scale_of);
        load_eight(columns, T.columns + first, Real::f32, addend);
#pragma unroll
        for (int j = 0; j < kSums / 4; ++j) {
            Value eight[8];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const Value even_row = all[i / 2][j * 4 + i % 2 * 2],
                            odd_row = all[i / 2][j * 4 + i % 2 * 2 + 1];
                const Value own = odd != 0 ? odd_row : even_row;
                const Value other = gpu::shfl_xor(odd != 0 ? even_row : odd_row, 4);
                eight[2 * i] = odd != 0 ? other : own;
                eight[2 * i + 1] = odd != 0 ? own : other;
            }
            const std::int64_t row = place.row + j * 8 + lane % 4 * 2 + odd;
            if (row >= a.m || left <= 0) continue;
            const float s_t = a.s_t == nullptr ? 1.0F : a.s_t[row];
            float values[8];
#pragma unroll
            for (int e = 0; e < 8; ++e) values[e] = finished(eight[e], s_t, scale_of[e], addend[e]);
            store_eight(a.y, row * a.y_stride + place.column + first, a.y_type, values,
                        left < 8 ? static_cast<int>(left) : 8, a.y_aligned != 0);
        }
    }
};

/// The functions that the .cu files of these kernels consist of.
#define AEROGEL_HOPPER_CODES(name, kind, shape, groups)                                         \
    extern "C" __global__ void __launch_bounds__(aerogel::cuda::shape.threads, 1)               \
        aerogel_##name(const aerogel::cuda::GemmArgs a) {                                       \
        aerogel::cuda::HopperCodes<aerogel::cuda::kind, aerogel::cuda::shape, groups>(a).run(); \
    }

}  // namespace aerogel::cuda
