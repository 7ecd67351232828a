// Activations of the linear kernels: one pass over a row of x reads it, multiplies by the smoothing factors,
// finds its largest magnitude, and writes what the products read (linear_args.h says where). Element for
// element what kernels/reference/activations.cpp computes. A block does a row and keeps it in shared memory;
// rows too long for that are read again.
#pragma once

#include "kernels/cuda/linear_args.h"
#include "kernels/cuda/linear_numbers.cuh"
#include "kernels/cuda/rotation_steps.cuh"

namespace aerogel::cuda {

/// Eight columns at a time; u counts them. kBytes: bytes are written, integers and E4M3; else bf16. kRotates:
/// in blocks of up to kMostRotated columns. kOrders: columns of x may lie in another order.
template <bool kBytes, bool kRotates, bool kOrders = true>
struct RowQuantizer {
    __device__ explicit RowQuantizer(const QuantizeArgs& args)
        : a(args), row(blockIdx.x), units((args.k + 7) / 8) {}

    __device__ void run() {
        const bool holds = units * 32 <= kHeldBytes;
        float values[8];
        std::uint32_t largest = 0;
#pragma unroll 1
        for (int first = 0; first < units; first += threads()) {
            const int u = first + static_cast<int>(threadIdx.x);
            read(u, values);
            largest = larger(largest, largest_of(values));
            if (holds && u < units) hold(u, values);
        }
        clear_gaps();
        choose_scale(largest);
#pragma unroll 1
        for (int first = 0; first < units; first += threads()) {
            const int u = first + static_cast<int>(threadIdx.x);
            if (!holds) {
                read(u, values);
            } else if (u < units) {
                recall(u, values);
            } else {
                clear(values);
            }
            finish(u, values);
        }
    }

    // --- x' of the row, in shared memory: each thread finds its own again ---
    __device__ float* held(int u) const {
        return reinterpret_cast<float*>(gpu::shared() + kQuantizeWords * 4) + u * 4;
    }
    __device__ void hold(int u, const float (&values)[8]) const {
        gpu::store(held(u), make_float4(values[0], values[1], values[2], values[3]));
        gpu::store(held(u + units), make_float4(values[4], values[5], values[6], values[7]));
    }
    __device__ void recall(int u, float (&values)[8]) const {
        const auto low = gpu::load<float4>(held(u)), high = gpu::load<float4>(held(u + units));
        values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
        values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
    }

    static constexpr std::uint32_t kInfinity = 0x7F800000;

    __device__ static int threads() {
        return static_cast<int>(blockDim.x);
    }

    __device__ static void clear(float (&values)[8]) {
#pragma unroll
        for (int i = 0; i < 8; ++i) values[i] = 0;
    }

    /// x' of unit u, zeros behind the row. All lanes of a warp, which have 256 columns, come here together.
    __device__ void read(int u, float (&values)[8]) const {
        read_scaled(u, values);
        if constexpr (kRotates) rotate(u, values);
    }

    __device__ void rotate(int u, float (&values)[8]) const {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const bool factors = a.rotation_factors != nullptr && u * 8 + i < a.k;
            const float own = factors ? a.rotation_factors[u * 8 + i] : 1.0F;
            values[i] = __fmul_rn(values[i], __fmul_rn(a.rotation_factor, own));
        }
        a.convrot != 0 ? convrot(values) : hadamard(values);
    }

    __device__ void hadamard(float (&values)[8]) const {
#pragma unroll
        for (int distance = 1; distance < 8; distance *= 2) {
            if (distance >= a.rotation) return;
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if ((i & distance) == 0) hadamard_two(values[i], values[i + distance]);
        }
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            if (distance * 8 >= a.rotation) return;
#pragma unroll
            for (int i = 0; i < 8; ++i) hadamard_lanes(values[i], distance);
        }
    }

    __device__ void convrot(float (&values)[8]) const {
        if (a.rotation < 4) return;
        convrot_four(values[0], values[1], values[2], values[3]);
        convrot_four(values[4], values[5], values[6], values[7]);
        if (a.rotation < 16) return;
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // the upper bit of this digit is a lane's
            hadamard_two(values[i], values[i + 4]);
            const float other = gpu::shfl_xor(values[i + 4], 1), sum = values[i];
            values[i] = sum + other;
            values[i + 4] = sum - other;
        }
#pragma unroll
        for (int distance = 2; distance < 32; distance *= 4) {
            if (distance * 8 >= a.rotation) return;
#pragma unroll
            for (int i = 0; i < 8; ++i) convrot_lanes(values[i], distance);
        }
    }

    __device__ void read_scaled(int u, float (&values)[8]) const {
        const int first = u * 8;
        const std::int64_t at = row * a.x_stride + first;
        if (kOrders && a.column_order != nullptr) {
#pragma unroll
            for (int i = 0; i < 8; ++i)
                values[i] = first + i < a.k
                                ? load_real(a.x, row * a.x_stride + a.column_order[first + i], a.x_type)
                                : 0.0F;
        } else if (a.aligned != 0 && first + 8 <= a.k) {
            load_eight(a.x, at, a.x_type, values);
            if (a.mul_scale != nullptr) {
                float factors[8];
                load_eight(a.mul_scale, first, Real::f32, factors);
#pragma unroll
                for (int i = 0; i < 8; ++i) values[i] = __fmul_rn(values[i], factors[i]);
            }
        } else {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                values[i] = first + i < a.k ? load_real(a.x, at + i, a.x_type) : 0.0F;
                if (a.mul_scale != nullptr && first + i < a.k)
                    values[i] = __fmul_rn(values[i], a.mul_scale[first + i]);
            }
        }
    }

    __device__ static std::uint32_t larger(std::uint32_t x, std::uint32_t y) {
        return x > y ? x : y;
    }

    /// As bits: those of infinity and NaN are the largest.
    __device__ static std::uint32_t largest_of(const float (&values)[8]) {
        std::uint32_t largest = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) largest = larger(largest, __float_as_uint(values[i]) & 0x7FFFFFFFU);
        return largest;
    }

    /// Of the threads that come here: all of the block, or 64 neighbours.
    __device__ static std::uint32_t largest_of_block(std::uint32_t value, bool of_64) {
        auto* words = reinterpret_cast<std::uint32_t*>(gpu::shared());
        const int warp = static_cast<int>(threadIdx.x) / 32, warps = threads() / 32;
#pragma unroll
        for (int d = 16; d > 0; d /= 2) value = larger(value, gpu::shfl_xor(value, d));
        __syncthreads();
        if (threadIdx.x % 32 == 0) words[warp] = value;
        __syncthreads();
        if (of_64) return larger(words[warp & ~1], words[warp | 1]);
        for (int i = 0; i < warps; ++i) value = larger(value, words[i]);
        return value;
    }

    __device__ void choose_scale(std::uint32_t largest) {
        finite = true;
        scale = a.kind == Quantize::fixed_integers ? a.input_scale : 1.0F;
        if (a.kind != Quantize::fixed_integers) {
            const std::uint32_t bits = largest_of_block(largest, false);
            finite = bits < kInfinity;
            if (a.kind == Quantize::integers) {
                const float quotient = __fdiv_rn(__uint_as_float(bits), a.top);
                scale = quotient == 0.0F ? 1.0F : quotient;
            } else if (a.kind == Quantize::fp8 || a.kind == Quantize::fp8_codes) {
                scale = normal_or_one(__fdiv_rn(__uint_as_float(bits), 448.0F));
            } else if (finite) {
                const int exponent = static_cast<int>(bits >> 23) - 127;
                scale = power_of_two(exponent);
                down = power_of_two(-exponent);
            }
            const bool is_nan = !finite && a.kind != Quantize::parts;
            if (threadIdx.x == 0) a.s_t[row] = is_nan ? __uint_as_float(0x7FC00000U) : scale;
        }
        const bool ordinary = scale > 0x1p-120F && scale < 0x1p120F;
        inverse = ordinary ? __fdiv_rn(1.0F, scale) : __uint_as_float(0x7FC00000U);
    }

    /// The integer nearest to x / scale + offset as if divided; a product decides where no tie is near.
    __device__ float nearest(float x, float offset) const {
        const float guess = __fadd_rn(__fmul_rn(x, inverse), offset);
        const float whole = rintf(guess);
        if (fabsf(guess) < 300.0F && fabsf(__fsub_rn(guess, whole)) < 0.499F) return whole;
        const float exact = __fadd_rn(__fdiv_rn(x, scale), offset);
        return rintf(exact == exact ? exact : offset);
    }

    __device__ void finish(int u, float (&values)[8]) {
        if constexpr (kBytes) {
            if (u < units) write_integers(u, values);
            return;
        }
        if (a.kind == Quantize::fp8) {
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i] = rounded(__fdiv_rn(values[i], scale), 3, 0x1p-6F, 448.0F);
        } else {
            if (a.kind != Quantize::parts) quantize_blocks(values);
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i] = __fmul_rn(values[i], down);
        }
        if (a.kind != Quantize::parts && !finite) {
#pragma unroll
            for (int i = 0; i < 8; ++i) values[i] = 0;
        }
        if (u < units) write_parts(u, values);
    }

    /// Rounded to the type of x; rotated rows are f32.
    __device__ float as_x(float value) const {
        if (kRotates || a.x_type == Real::f32) return value;
        return a.x_type == Real::bf16 ? gpu::float_of_bf16(bf16_of(value))
                                      : gpu::float_of_f16(gpu::pack_f16(value, 0.0F));
    }

    /// MX: four threads hold a block of 32 columns; dual: 64 threads hold 512.
    __device__ void quantize_blocks(float (&values)[8]) {
        float dual = 1;
        if (a.kind == Quantize::mxfp4_dual) {
            dual =
                normal_or_one(__fdiv_rn(__uint_as_float(largest_of_block(largest_of(values), true)), 6.0F));
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                values[i] = __fdiv_rn(values[i], dual);
                values[i] = as_x(values[i]);
            }
        }
        std::uint32_t largest = largest_of(values);
        largest = larger(largest, gpu::shfl_xor(largest, 1));
        largest = larger(largest, gpu::shfl_xor(largest, 2));
        const bool eight = a.kind == Quantize::mxfp8;
        const int wanted = static_cast<int>(largest >> 23) - 127 - (eight ? 8 : 2);
        const int exponent = wanted < -127 ? -127 : wanted;
        const float up = power_of_two(exponent), inverse_up = power_of_two(-exponent);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const float x = __fmul_rn(values[i], inverse_up);
            const float code = eight ? rounded(x, 3, 0x1p-6F, 448.0F) : rounded(x, 1, 1.0F, 6.0F);
            values[i] = __fmul_rn(__fmul_rn(code, up), dual);
        }
    }

    /// The column of the slabs for column p of x.
    __device__ int place(int p) const {
        return a.group == 0 ? p : p / a.group * a.padded_group + p % a.group;
    }

    /// Byte `byte` of this row's part.
    __device__ unsigned char* at(int byte, int part = 0) const {
        const std::int64_t line = static_cast<std::int64_t>(byte / kSlabBytes) * a.rows + row;
        const int chunk = (byte / 16 % 8) ^ static_cast<int>(row % 8);
        return a.slabs + part * a.plane + line * kSlabBytes + chunk * 16 + byte % 16;
    }

    /// Zeros in the columns that x does not have.
    __device__ void clear_gaps() const {
        const int first = a.group == 0 ? units : 0;
        const int parts = kBytes ? 1 : a.parts + a.finite;
        for (int u = first + static_cast<int>(threadIdx.x); u < a.width / 8; u += threads()) {
            for (int part = 0; part < parts; ++part) {
                if constexpr (kBytes) {
                    gpu::store(at(u * 8), make_uint2(0, 0));
                } else {
                    gpu::store(at(u * 16, part), make_uint4(0, 0, 0, 0));
                }
            }
        }
        if (a.group != 0) __syncthreads();
    }

    __device__ bool whole(int u) const {
        return a.group % 8 == 0 && (a.group == 0 || u * 8 + 8 <= a.k);
    }

    __device__ void write_integers(int u, const float (&values)[8]) const {
        const bool fixed = a.kind == Quantize::fixed_integers;
        const float low = fixed ? -128.0F : -a.top - 1.0F, high = fixed ? 127.0F : a.top;
        std::int32_t q[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (a.kind == Quantize::fp8_codes) {
                const float x = rounded(__fdiv_rn(values[i], scale), 3, 0x1p-6F, 448.0F);
                q[i] = finite ? static_cast<std::int32_t>(e4m3_of(x)) : 0;
            } else {
                const float x = fixed ? nearest(values[i], a.input_offset) : nearest(values[i], 0.0F);
                q[i] = finite ? static_cast<std::int32_t>(fminf(fmaxf(x, low), high)) : 0;
            }
            if (u * 8 + i >= a.k) q[i] = 0;
        }
        if (whole(u)) {
            gpu::store(at(place(u * 8)),
                       make_uint2(four_bytes(q[0], q[1], q[2], q[3]), four_bytes(q[4], q[5], q[6], q[7])));
            return;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (u * 8 + i < a.k) *at(place(u * 8 + i)) = static_cast<unsigned char>(q[i]);
    }

    __device__ void write_parts(int u, float (&values)[8]) const {
        const std::int32_t planes = a.parts + a.finite;
        std::uint32_t first[8];
        for (int part = 0; part < planes; ++part) {
            std::uint32_t half[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                if (part == a.parts) {  // the first part once more, without infinities
                    half[i] = (first[i] & 0x7F80U) == 0x7F80U ? 0 : first[i];
                    continue;
                }
                half[i] = finite_bf16_of(values[i]);
                const float rest = __fsub_rn(values[i], gpu::float_of_bf16(half[i]));
                values[i] = (half[i] & 0x7F80U) == 0x7F80U ? 0.0F : rest;
                if (part == 0) first[i] = half[i];
            }
            if (whole(u)) {
                gpu::store(at(place(u * 8) * 2, part),
                           make_uint4(half[0] | half[1] << 16, half[2] | half[3] << 16,
                                      half[4] | half[5] << 16, half[6] | half[7] << 16));
                continue;
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if (u * 8 + i < a.k)
                    *reinterpret_cast<std::uint16_t*>(at(place(u * 8 + i) * 2, part)) =
                        static_cast<std::uint16_t>(half[i]);
        }
    }

    const QuantizeArgs& a;
    const std::int64_t row;
    const int units;
    float scale = 1, inverse = 1;
    float down = 1;  ///< of floats: the power of two that brings the row's largest number near 1, so that no
                     ///< sum overflows
    bool finite = true;
};

}  // namespace aerogel::cuda
