// Convolutions of float32 as a product whose rows are patches of x, gathered while they are needed (implicit
// GEMM: Chetlur et al., cuDNN, 2014): cp.async brings a slab of 32 numbers of each patch to shared memory as
// they are, zeros where a tap is outside of x, through three stages or more. A lane reads four floats at once
// and splits them into bf16 parts in its registers, so every number is read once per tap and needs no copy;
// products of parts are added up as in the linear kernels for float32 (as CUTLASS's "3xTF32" does).
#pragma once

#include "kernels/cuda/convolution_args.h"
#include "kernels/cuda/linear_numbers.cuh"

namespace aerogel::cuda {

template <ConvolutionTile T>
struct Convolver {
    static constexpr int kRowTiles = T.warp_rows / 16, kColumnTiles = T.warp_columns / 8;
    static constexpr int kAcross = T.columns / T.warp_columns;  ///< warps
    static_assert(T.threads == T.rows / T.warp_rows * kAcross * 32 && kColumnTiles % 4 == 0);
    static constexpr int kXCopies = T.rows * 8 / T.threads, kRowsAtOnce = T.threads / 8;
    static constexpr int kWCopies = T.w_bytes() / 16 / T.threads;
    static_assert(kXCopies * kRowsAtOnce == T.rows && kWCopies * T.threads * 16 == T.w_bytes());
    static constexpr int kEightRows = 8 * kConvolutionSlab * 2 * T.parts;  ///< bytes of w
    static constexpr int kNowhere = -(1 << 30);                            ///< a frame that does not exist

    const ConvolutionKernelArgs& a;
    unsigned char* shared;
    int lane, warp_row, warp_column, first_column;
    std::int64_t first_row;
    int tap_frame = 0, tap_line = 0, tap_column = 0, channel;  ///< of this thread's chunk in the next slab
    float sum[kRowTiles][kColumnTiles][4];

    __device__ __forceinline__ explicit Convolver(const ConvolutionKernelArgs& args)
        : a(args), shared(gpu::shared()) {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        lane = static_cast<int>(threadIdx.x) % 32;
        warp_column = warp % kAcross * T.warp_columns;
        warp_row = warp / kAcross * T.warp_rows;
        const auto block = static_cast<int>(blockIdx.x);  // those of the same pixels run together
        first_column = block % a.column_tiles * T.columns;
        first_row = static_cast<std::int64_t>(block / a.column_tiles) * T.rows;
        channel = static_cast<int>(threadIdx.x) % 8 * 4;
        find_tap();
#pragma unroll
        for (int i = 0; i < kRowTiles * kColumnTiles * 4; ++i)
            sum[i / 4 / kColumnTiles][i / 4 % kColumnTiles][i % 4] = 0;
    }

    // --- pixels ---

    __device__ __forceinline__ int4* origins() const {
        return reinterpret_cast<int4*>(shared + T.stages * T.stage_bytes());
    }
    __device__ __forceinline__ std::int64_t* places() const {
        return reinterpret_cast<std::int64_t*>(origins() + T.rows);
    }

    /// Of each row: the frame, line and column of x that its first tap meets, and its place in y or -1.
    __device__ __forceinline__ void find_pixels() const {
        for (int row = static_cast<int>(threadIdx.x); row < T.rows; row += T.threads) {
            const std::int64_t pixel = first_row + row;
            const std::int64_t line = pixel / a.y_size.width, frame = line / a.y_size.height;
            const auto of_line = static_cast<int>(pixel % a.y_size.width),
                       of_frame = static_cast<int>(line % a.y_size.height);
            const bool in = pixel < a.pixels;
            const int start = static_cast<int>(frame) * a.stride.frames - a.padding.frames;
            gpu::store(origins() + row,
                       make_int4(in ? start : kNowhere, of_frame * a.stride.height - a.padding.height,
                                 of_line * a.stride.width - a.padding.width, 0));
            places()[row] = in ? frame * a.y_frame + of_frame * a.y_line + of_line * a.y_pixel : -1;
        }
    }

    // --- copies ---

    /// Brings `channel` below the channels, tap by tap.
    __device__ __forceinline__ void find_tap() {
        while (channel >= a.padded_channels) {
            channel -= a.padded_channels;
            if (++tap_column < a.kernel.width) continue;
            tap_column = 0;
            if (++tap_line < a.kernel.height) continue;
            tap_line = 0;
            ++tap_frame;
        }
    }

    /// The channels of a tap; null: zeros.
    __device__ __forceinline__ const float* pixel_of(const int4& origin) const {
        int frame = origin.x + tap_frame;
        const int line = origin.y + tap_line, column = origin.z + tap_column;
        if (line < 0 || column < 0 || tap_frame >= a.kernel.frames) return nullptr;
        const int row = line >> a.doubled, place = column >> a.doubled;
        if (row >= a.x_size.height || place >= a.x_size.width || frame >= a.x_size.frames) return nullptr;
        const float* from = a.x;
        if (frame < 0) {
            frame += a.before_frames;
            if (frame < 0) return nullptr;
            from = a.before;
        }
        const std::int64_t pixel =
            (static_cast<std::int64_t>(frame) * a.x_size.height + row) * a.x_size.width + place;
        return from + pixel * a.channels + channel;
    }

    __device__ __forceinline__ void fetch(int slab) {
        if (slab >= a.slabs) return;
        unsigned char* stage = shared + slab % T.stages * T.stage_bytes();
        const int chunk = static_cast<int>(threadIdx.x) % 8, first = static_cast<int>(threadIdx.x) / 8;
#pragma unroll
        for (int i = 0; i < kXCopies; ++i) {
            const int row = first + i * kRowsAtOnce;
            const float* from = pixel_of(gpu::load<int4>(origins() + row));
            unsigned char* to = stage + row * 128 + (chunk ^ (row & 1) * 4) * 16;
            if (a.x_aligned != 0) {
                gpu::cp_async16(to, from == nullptr ? a.x : from, from != nullptr);
                continue;
            }
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const bool there = from != nullptr && channel + e < a.channels;
                gpu::cp_async<4>(to + e * 4, there ? from + e : a.x, there ? 4 : 0);
            }
        }
        const unsigned char* w = a.w + (static_cast<std::int64_t>(slab) * a.w_rows + first_column) *
                                           (kConvolutionSlab * 2 * T.parts);
#pragma unroll
        for (int i = 0; i < kWCopies; ++i) {
            const int at = (i * T.threads + static_cast<int>(threadIdx.x)) * 16;
            gpu::cp_async16(stage + T.x_bytes() + at, w + at);
        }
        channel += kConvolutionSlab;
        find_tap();
    }

    // --- products ---

    /// Two floats as parts, the first one in the low halves.
    __device__ __forceinline__ static void split(float low, float high, std::uint32_t (&parts)[T.parts]) {
#pragma unroll
        for (int i = 0; i < T.parts; ++i) {
            parts[i] = gpu::pack_bf16(low, high);
            low = __fsub_rn(low, __uint_as_float(parts[i] << 16));
            high = __fsub_rn(high, __uint_as_float(parts[i] & 0xFFFF0000U));
        }
    }

    /// Of the patches of a warp, one step of 16 numbers. Lines of 128 bytes have their halves exchanged in
    /// every other row, so eight lanes read from all banks.
    __device__ __forceinline__ void load_x(std::uint32_t (&x)[T.parts][kRowTiles][4],
                                           const unsigned char* stage, int step) const {
        const int chunk = (step * 4 + lane % 4) ^ (lane / 4 & 1) * 4;
#pragma unroll
        for (int i = 0; i < kRowTiles * 2; ++i) {
            const int row = warp_row + i * 8 + lane / 4;
            const auto four = gpu::load<float4>(stage + row * 128 + chunk * 16);
            std::uint32_t low[T.parts], high[T.parts];
            split(four.x, four.y, low);
            split(four.z, four.w, high);
#pragma unroll
            for (int part = 0; part < T.parts; ++part) {
                x[part][i / 2][i % 2] = low[part];
                x[part][i / 2][i % 2 + 2] = high[part];
            }
        }
    }

    __device__ __forceinline__ void multiply(const unsigned char* stage) {
        const unsigned char* w = stage + T.x_bytes() + (warp_column / 8 + lane / 16) * kEightRows +
                                 lane / 8 % 2 * 128 + lane % 8 * 16;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            std::uint32_t x[T.parts][kRowTiles][4];
            load_x(x, stage, step);
#pragma unroll
            for (int part = 0; part < T.parts; ++part) {
#pragma unroll
                for (int j = 0; j < kColumnTiles; j += 2) {
                    std::uint32_t four[4];
                    gpu::ldmatrix_x4(four, w + j * kEightRows + part * 512 + step * 256);
#pragma unroll
                    for (int other = 0; other < T.parts - part; ++other)
#pragma unroll
                        for (int i = 0; i < kRowTiles; ++i) {
                            gpu::mma_bf16(sum[i][j], x[other][i], four);
                            gpu::mma_bf16(sum[i][j + 1], x[other][i], four + 2);
                        }
                }
            }
        }
    }

    __device__ void run() {
        find_pixels();
        __syncthreads();
#pragma unroll
        for (int slab = 0; slab < T.stages - 1; ++slab) {
            fetch(slab);
            gpu::cp_async_commit();
        }
        for (int slab = 0; slab < a.slabs; ++slab) {
            gpu::cp_async_wait<T.stages - 2>();
            __syncthreads();  // all have read the stage that is filled now
            fetch(slab + T.stages - 1);
            gpu::cp_async_commit();
            multiply(shared + slab % T.stages * T.stage_bytes());
        }
        gpu::cp_async_wait<0>();
        write();
    }

    // --- y ---

    __device__ __forceinline__ void write() const {
#pragma unroll
        for (int j = 0; j < kColumnTiles; j += 4) {
            const int n = first_column + warp_column + j * 8 + lane % 4 * 8;
            const int left = a.out_channels - n, count = left < 8 ? left : 8;
            if (count <= 0) continue;
            float bias[8];
#pragma unroll
            for (int e = 0; e < 8; ++e) bias[e] = a.bias != nullptr && e < count ? a.bias[n + e] : 0.0F;
#pragma unroll
            for (int half = 0; half < kRowTiles * 2; ++half) {
                const std::int64_t place = places()[warp_row + half * 8 + lane / 4];
                if (place < 0) continue;
                float values[8];
                read_added(place + n, count, values);
#pragma unroll
                for (int e = 0; e < 8; ++e)
                    values[e] = __fadd_rn(__fadd_rn(values[e], bias[e]),
                                          sum[half / 2][j + e / 2][half % 2 * 2 + e % 2]);
                store_eight(a.y, place + n, Real::f32, values, count, a.y_aligned != 0);
            }
        }
    }

    __device__ __forceinline__ void read_added(std::int64_t at, int count, float (&values)[8]) const {
#pragma unroll
        for (int e = 0; e < 8; ++e) values[e] = 0;
        if (a.add == nullptr) return;
        if (a.y_aligned != 0 && count == 8) return load_eight(a.add, at, Real::f32, values);
#pragma unroll
        for (int e = 0; e < 8; ++e)
            if (e < count) values[e] = a.add[at + e];
    }
};

}  // namespace aerogel::cuda
