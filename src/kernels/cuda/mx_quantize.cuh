// Activations of MX products on sm_120: what quantize.cuh makes of a row, left as codes and exponents. One
// pass over a row, as there.
#pragma once

#include "kernels/cuda/mx_args.h"
#include "kernels/cuda/primitives/gpu_sm120.h"
#include "kernels/cuda/quantize.cuh"

namespace aerogel::cuda {

template <bool kRotates>
struct MxRowQuantizer : RowQuantizer<true, kRotates, false> {
    using Base = RowQuantizer<true, kRotates, false>;
    std::uint32_t* const words;

    __device__ explicit MxRowQuantizer(const MxQuantizeArgs& args) : Base(args.row), words(args.words) {}

    __device__ void run() {
        const bool holds = this->units * 32 <= kHeldBytes;
        float values[8];
        std::uint32_t largest = 0;
#pragma unroll 1
        for (int first = 0; first < this->units; first += Base::threads()) {
            const int u = first + static_cast<int>(threadIdx.x);
            this->read(u, values);
            largest = Base::larger(largest, Base::largest_of(values));
            if (holds && u < this->units) this->hold(u, values);
        }
        clear_blocks();
        this->choose_scale(largest);
#pragma unroll 1
        for (int first = 0; first < this->units; first += Base::threads()) {
            const int u = first + static_cast<int>(threadIdx.x);
            if (!holds) {
                this->read(u, values);
            } else if (u < this->units) {
                this->recall(u, values);
            } else {
                Base::clear(values);
            }
            write(u, values);
        }
    }

    /// The exponent of block `b` of 32 columns.
    __device__ unsigned char* exponent_at(int b) const {
        return reinterpret_cast<unsigned char*>(words + static_cast<std::int64_t>(b / 4) * this->a.rows +
                                                this->row) +
               b % 4;
    }

    /// The 16 bytes of a block of E2M1.
    __device__ unsigned char* chunk_at(int b) const {
        const std::int64_t eight = (static_cast<std::int64_t>(b / 4) * this->a.rows + this->row) / 8;
        return this->a.slabs + eight * 512 + b % 4 * 128 + this->row % 8 * 16;
    }

    __device__ int blocks() const {
        return (this->units + 3) / 4;
    }

    /// What x does not have.
    __device__ void clear_blocks() const {
        if (this->a.kind == Quantize::mxfp8) this->clear_gaps();
        for (int b = blocks() + static_cast<int>(threadIdx.x); b < this->a.width / 32; b += Base::threads()) {
            *exponent_at(b) = 0;
            if (this->a.kind == Quantize::mxfp4) gpu::store(chunk_at(b), make_uint4(0, 0, 0, 0));
        }
    }

    /// Four lanes have a block. Exponents are those of the row's largest number and below, so that no sum
    /// overflows; what is 2^-127 of it counts as zero.
    __device__ void write(int u, const float (&values)[8]) const {
        std::uint32_t largest = Base::largest_of(values);
        largest = Base::larger(largest, gpu::shfl_xor(largest, 1));
        largest = Base::larger(largest, gpu::shfl_xor(largest, 2));
        const bool eight = this->a.kind == Quantize::mxfp8;
        const int wanted = static_cast<int>(largest >> 23) - 127 - (eight ? 8 : 2);
        const int exponent = wanted < -127 ? -127 : wanted;
        const int below = exponent - exponent_of_row() + 127;
        const bool counts = this->finite && below >= 0;
        if (u % 4 == 0 && u < this->units)
            *exponent_at(u / 4) = static_cast<unsigned char>(counts ? below : 0);
        const float inverse_up = power_of_two(-exponent);
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = counts ? __fmul_rn(values[i], inverse_up) : 0.0F;
        eight ? write_bytes(u, x) : write_nibbles(u, x);
    }

    __device__ void write_bytes(int u, const float (&x)[8]) const {
        if (u >= this->units) return;
        std::int32_t code[8];
#pragma unroll
        for (int i = 0; i < 8; ++i)
            code[i] = static_cast<std::int32_t>(e4m3_of(rounded(x[i], 3, 0x1p-6F, 448.0F)));
        gpu::store(this->at(u * 8), make_uint2(four_bytes(code[0], code[1], code[2], code[3]),
                                               four_bytes(code[4], code[5], code[6], code[7])));
    }

    /// The lanes of columns c and c + 16 are two apart.
    __device__ void write_nibbles(int u, const float (&x)[8]) const {
        std::uint32_t low = 0, high = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            low |= gpu::pack_e2m1(x[i], 0.0F) << (8 * i);
            high |= gpu::pack_e2m1(x[i + 4], 0.0F) << (8 * i);
        }
        const std::uint32_t other_low = gpu::shfl_xor(low, 2), other_high = gpu::shfl_xor(high, 2);
        if (u % 4 >= 2 || u / 4 >= blocks()) return;
        gpu::store(chunk_at(u / 4) + u % 2 * 8, make_uint2(low | other_low << 4, high | other_high << 4));
    }

    /// scale is its power of two.
    __device__ int exponent_of_row() const {
        const auto bits = static_cast<int>(__float_as_uint(this->scale) >> 23);
        return bits == 0 ? -127 : bits - 127;
    }
};

}  // namespace aerogel::cuda
