// y = x w^T of operands in slabs (linear_args.h), for every card since Ampere: tiles come to shared memory
// through several cp.async stages, ldmatrix reads a step ahead of mma.sync, scales, bias and the type of y
// are in the epilogue. The order of float operations is that of kernels/linear.h. Tiles follow CUTLASS
// ("Efficient GEMM in CUDA") and what vLLM found for int8 on these cards; few rows share out k among the
// warps.
#pragma once

#include "kernels/cuda/gemm_weights.cuh"

namespace aerogel::cuda {

/// What a block does. kGroups: w has a scale per group of columns of x, and sums of a group are added up as
/// floats.
template <typename Kind, TileShape T, bool kGroups>
struct Gemm {
    using Sum = typename Kind::Sum;
    static constexpr bool kIntegers = Kind::kIntegers;
    static constexpr int kRowTiles = T.warp_rows / 16, kColumnTiles = T.warp_columns / 8;
    static constexpr int kAcross = T.columns / T.warp_columns;  ///< warps
    static_assert(T.threads == T.rows / T.warp_rows * kAcross * T.split * 32);
    static constexpr int kSteps = 4 / T.split;  ///< of a warp per slab, 32 bytes of x each
    static constexpr int kWords = Kind::kBytes == 128 ? 2 : 1;
    static constexpr int kXBytes = T.rows * kSlabBytes, kStageBytes = kXBytes + T.columns * Kind::kBytes;
    static constexpr int kXCopies = kXBytes / 16 / T.threads;
    static constexpr int kCopies = kStageBytes / 16 / T.threads;
    static_assert(kXBytes % (16 * T.threads) == 0 && kStageBytes % (16 * T.threads) == 0);
    static_assert(!kGroups || T.split == 1);
    /// The bits of 1.5 * 2^23: an integer added to them is added to the float, so no conversion is needed.
    static constexpr std::uint32_t kMagic = 0x4B400000;

    struct Fragments {
        std::uint32_t x[kRowTiles][4];
        std::uint32_t w[kColumnTiles * kWords];
    };

    const GemmArgs& a;
    unsigned char* shared;
    int lane, part, warp_row, warp_column, total;
    std::int64_t first_row, first_column;
    const unsigned char *next_x, *next_w;
    int next_slab = 0, next_pair = 0;
    Sum sum[kRowTiles][kColumnTiles][4];
    float total_sum[kGroups ? kRowTiles : 1][kGroups ? kColumnTiles : 1][4];
    float group_scale[kGroups ? kColumnTiles * 2 : 1];
    std::uint32_t offset[Kind::kOffsets ? kColumnTiles : 1];
    int group = 0, step = 0, slab_group = 0, slab_step = 0, pair = 0;

    __device__ __forceinline__ explicit Gemm(const GemmArgs& args) : a(args), shared(gpu::shared()) {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        lane = static_cast<int>(threadIdx.x) % 32;
        part = warp % T.split;
        warp_column = warp / T.split % kAcross * T.warp_columns;
        warp_row = warp / T.split / kAcross * T.warp_rows;
        total = a.slabs * a.pairs;
        place_block();
        clear();
        if constexpr (kGroups) {
#pragma unroll
            for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i)
                total_sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4] = 0;
            read_group();
        }
    }

    /// Blocks that run at the same time share rows and columns of tiles: eight rows of tiles at once.
    __device__ __forceinline__ void place_block() {
        constexpr int kTogether = 8;
        const int block = static_cast<int>(blockIdx.x), band = block / (kTogether * a.column_tiles);
        const int left = a.row_tiles - band * kTogether, rows = left < kTogether ? left : kTogether;
        const int within = block % (kTogether * a.column_tiles);
        first_row = static_cast<std::int64_t>(band * kTogether + within % rows) * T.rows;
        first_column = static_cast<std::int64_t>(within / rows) * T.columns;
        next_x = a.x + first_row * kSlabBytes;
        next_w = a.w + first_column * Kind::kBytes;
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
            for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    sum[i][j][e] = kIntegers && kGroups ? static_cast<Sum>(kMagic) : 0;
    }

    /// A quarter of the copies of stage `t`, or all of them where a warp has one step.
    __device__ __forceinline__ void fetch(int t, int quarter, int quarters) {
        if (t >= total) return;
        unsigned char* to = shared + t % T.stages * kStageBytes + threadIdx.x * 16;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            if (i * quarters / kCopies != quarter) continue;
            const std::int64_t at =
                static_cast<std::int64_t>(i * T.threads + static_cast<int>(threadIdx.x)) * 16;
            const unsigned char* from = i < kXCopies ? next_x + at : next_w + (at - kXBytes);
            gpu::cp_async16(to + i * T.threads * 16, from);
        }
        if (quarter == quarters - 1) advance();
    }

    __device__ __forceinline__ void advance() {
        if constexpr (!kIntegers) {
            if (++next_pair < a.pairs) return place_pair();
            next_pair = 0;
            ++next_slab;
            return place_pair();
        }
        next_x += a.x_rows * kSlabBytes;
        next_w += a.w_rows * Kind::kBytes;
    }

    __device__ __forceinline__ void place_pair() {
        const auto code = static_cast<int>(a.pair_list >> (8 * next_pair));
        next_x = a.x + (code & 15) * a.x_plane + (next_slab * a.x_rows + first_row) * kSlabBytes;
        next_w = a.w + (code >> 4 & 15) * a.w_plane + (next_slab * a.w_rows + first_column) * Kind::kBytes;
    }

    /// What a warp multiplies in step `s` of a slab.
    __device__ __forceinline__ void load(Fragments& f, const unsigned char* stage, int s) const {
        const unsigned char* x =
            stage + (warp_row + lane % 16) * kSlabBytes + ((s * 2 + lane / 16) ^ (lane % 8)) * 16;
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) gpu::ldmatrix_x4(f.x[i], x + i * 16 * kSlabBytes);
        const unsigned char* w = stage + kXBytes + warp_column * Kind::kBytes;
        if constexpr (kWords == 2) {
            w += (lane / 16 * 8 + lane % 8) * kSlabBytes + ((s * 2 + lane / 8 % 2) ^ (lane % 8)) * 16;
        } else {
            w += lane / 8 * 8 * Kind::kBytes + s / (64 / Kind::kBytes) * 128 + lane % 8 * 16;
        }
        constexpr int kLoads = kColumnTiles * kWords / 4, kColumnsOfLoad = kWords == 2 ? 16 : 32;
#pragma unroll
        for (int j = 0; j < kLoads; ++j) {
            std::uint32_t four[4];
            gpu::ldmatrix_x4(four, w + j * kColumnsOfLoad * Kind::kBytes);
#pragma unroll
            for (int e = 0; e < 4; ++e) f.w[j * 4 + e] = four[e];
        }
    }

    __device__ __forceinline__ void multiply(const Fragments& f, int s) {
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
            std::uint32_t b[2];
            if constexpr (kWords == 2) {
                b[0] = f.w[j * 2];
                b[1] = f.w[j * 2 + 1];
            } else {
                Kind::unpack(f.w[j], s, offset[Kind::kOffsets ? j : 0], a, b);
            }
#pragma unroll
            for (int i = 0; i < kRowTiles; ++i) Kind::multiply(sum[i][j], f.x[i], b);
        }
    }

    __device__ void run() {
        fill_columns();
#pragma unroll
        for (int t = 0; t < T.stages - 1; ++t) {
            fetch(t, 0, 1);
            gpu::cp_async_commit();
        }
        gpu::cp_async_wait<T.stages - 2>();
        __syncthreads();
        Fragments fragments[2];
        if (total > 0) load(fragments[0], shared, part);
        for (int t = 0; t < total; ++t) {
#pragma unroll
            for (int i = 0; i < kSteps; ++i) {
                fetch(t + T.stages - 1, i, kSteps);
                if (i + 1 < kSteps) {
                    load(fragments[(i + 1) % 2], shared + t % T.stages * kStageBytes, i + 1);
                    multiply(fragments[i % 2], i);
                } else {
                    gpu::cp_async_commit();
                    gpu::cp_async_wait<T.stages - 2>();
                    __syncthreads();
                    next(fragments, t, i);
                }
                if constexpr (kGroups) end_step();
            }
            if constexpr (kGroups) end_slab();
        }
        gpu::cp_async_wait<0>();
        if constexpr (kGroups)
            if (step > 0 && group < a.groups) add_group();
        if constexpr (T.split > 1) join_parts();
        if (part == 0) write();
    }

    /// The last step of a slab, while the first of the next one is loaded.
    __device__ __forceinline__ void next(Fragments (&fragments)[2], int t, int i) {
        const unsigned char* stage = shared + (t + 1) % T.stages * kStageBytes;
        if constexpr (kSteps % 2 == 0) {
            if (t + 1 < total) load(fragments[0], stage, part);
            multiply(fragments[i % 2], i);
        } else {
            const Fragments now = fragments[0];
            if (t + 1 < total) load(fragments[0], stage, part);
            multiply(now, part);
        }
    }

    // --- groups ---

    /// The first of the eight neighbours that this lane holds of each 32 columns.
    __device__ __forceinline__ std::int64_t column(int j) const {
        return first_column + warp_column + j / 4 * 32 + lane % 4 * 8;
    }

    __device__ __forceinline__ void read_group() {
        if (Kind::kRowScale || group >= a.groups) return;
        const std::int64_t row = group * a.w_rows;
#pragma unroll
        for (int j = 0; j < kColumnTiles; j += 4) {
            float eight[8];
            load_eight(a.scale, row + column(j), Real::f32, eight);
#pragma unroll
            for (int e = 0; e < 8; ++e) group_scale[j * 2 + e] = eight[e];
        }
        if constexpr (Kind::kOffsets) {
            if (a.offset == nullptr) return;
#pragma unroll
            for (int j = 0; j < kColumnTiles; ++j) {
                const std::int64_t n = first_column + warp_column + j * 8 + lane / 4;
                offset[j] = bf16_of(a.offset[row + n]) * 0x00010001U;
            }
        }
    }

    __device__ __forceinline__ void end_step() {
        if (++step < a.group_steps) return;
        if (group < a.groups) add_group();
        step = 0;
        ++group;
        read_group();
    }

    /// Another pair of parts of the same slab begins with the same group.
    __device__ __forceinline__ void end_slab() {
        if constexpr (!kIntegers) {
            if (a.pairs == 1) return;
            if (step > 0 && group < a.groups) add_group();
            if (++pair < a.pairs) {
                step = slab_step;
                group = slab_group;
            } else {
                pair = 0;
                slab_step = step;
                slab_group = group;
            }
            read_group();
        }
    }

    __device__ __forceinline__ float real(Sum value) const {
        if constexpr (!kIntegers) {
            return value;
        } else if (a.wide != 0) {
            const auto plain = static_cast<std::int32_t>(static_cast<std::uint32_t>(value) - kMagic);
            return static_cast<float>(plain >> Kind::kShift);
        } else {  // exact: sums of at most 2^22, times 1 or 1/16
            constexpr float kUnit = 1.0F / static_cast<float>(1 << Kind::kShift);
            return __fmaf_rn(__uint_as_float(static_cast<std::uint32_t>(value)), kUnit, -12582912.0F * kUnit);
        }
    }

    __device__ __forceinline__ void add_group() {
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
            for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const float part_sum = real(sum[i][j][e]);
                    float& all = total_sum[i][j][e];
                    if constexpr (Kind::kRowScale) {
                        all = __fadd_rn(all, part_sum);
                        continue;
                    }
                    const float scale = group_scale[j / 4 * 8 + j % 4 * 2 + e % 2];
                    all = kIntegers ? __fadd_rn(all, __fmul_rn(part_sum, scale))
                                    : __fmaf_rn(part_sum, scale, all);
                }
        clear();
    }

    // --- epilogue ---

    __device__ __forceinline__ float* columns() const {
        return reinterpret_cast<float*>(shared + T.stages * kStageBytes);
    }

    /// Scale and addend of the block's columns; an addend of -0 changes nothing.
    __device__ __forceinline__ void fill_columns() const {
        for (int i = static_cast<int>(threadIdx.x); i < T.columns; i += T.threads) {
            const std::int64_t n = first_column + i;
            const bool in = n < a.n;
            columns()[i] = in && (Kind::kRowScale || (!kGroups && kIntegers)) ? a.scale[n] : 1.0F;
            columns()[T.columns + i] = in && a.add != nullptr ? static_cast<const float*>(a.add)[n] : -0.0F;
        }
    }

    /// The sums of the warps that share k, in the first of them.
    __device__ __forceinline__ void join_parts() {
        __syncthreads();
        auto* words = reinterpret_cast<Sum*>(shared) + lane;
        constexpr int kSums = kRowTiles * kColumnTiles * 4;
#pragma unroll
        for (int i = 0; i < kSums; ++i)
            if (part > 0)
                words[((part - 1) * kSums + i) * 32] = sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4];
        __syncthreads();
        if (part > 0) return;
#pragma unroll
        for (int i = 0; i < kSums; ++i)
#pragma unroll
            for (int other = 0; other < T.split - 1; ++other)
                sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4] += words[(other * kSums + i) * 32];
    }

    __device__ __forceinline__ float finished(int i, int j, int e, float s_t, float scale,
                                              float addend) const {
        if constexpr (Kind::kRowScale) {
            return scaled(a, total_sum[i][j][e], s_t, scale, addend);
        } else if constexpr (kGroups) {
            return __fadd_rn(__fmul_rn(total_sum[i][j][e], s_t), addend);
        } else if constexpr (!kIntegers) {
            return __fadd_rn(__fmul_rn(sum[i][j][e], s_t), addend);
        } else {
            return scaled(a, sum[i][j][e] >> Kind::kShift, s_t, scale, addend);
        }
    }

    __device__ __forceinline__ void write() const {
#pragma unroll
        for (int j = 0; j < kColumnTiles; j += 4) {
            const std::int64_t n = column(j), left = a.n - n;
            const int count = left < 8 ? static_cast<int>(left) : 8;
            float scale[8], addend[8];
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                scale[e] = columns()[n - first_column + e];
                addend[e] = columns()[T.columns + n - first_column + e];
            }
#pragma unroll
            for (int half = 0; half < kRowTiles * 2; ++half) {
                const std::int64_t r = first_row + warp_row + half * 8 + lane / 4;
                if (r >= a.m || count <= 0) continue;
                const float s_t = a.s_t == nullptr ? 1.0F : a.s_t[r];
                float values[8];
#pragma unroll
                for (int e = 0; e < 8; ++e)
                    values[e] = finished(half / 2, j + e / 2, half % 2 * 2 + e % 2, s_t, scale[e], addend[e]);
                store_eight(a.y, r * a.y_stride + n, a.y_type, values, count, a.y_aligned != 0);
            }
        }
    }
};

}  // namespace aerogel::cuda
