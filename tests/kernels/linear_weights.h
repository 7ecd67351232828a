// Random weights of every format for the tests of linear kernels: every code that is a number, the largest
// and smallest ones with scales to match, and NaNs.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

#include "aerogel/number_types.h"
#include "formats/int4.h"
#include "formats/mx.h"
#include "formats/nibbles.h"
#include "kernels/linear_cases.h"

namespace aerogel::testing {

/// Alternating and equal rows of the largest integers.
inline float extreme_value(std::int64_t row, std::int64_t p) {
    switch (row % 4) {
        case 0:
            return 127;
        case 1:
            return -128;
        case 2:
            return p % 2 == 0 ? 127.0F : -128.0F;
        default:
            return static_cast<float>(p % 256 - 128);
    }
}

class WeightMaker {
  public:
    WeightMaker(const LinearProblem& problem, Fill fill)
        : p_(problem), fill_(fill), random_(static_cast<unsigned>(problem.n * 13 + problem.k)) {}

    QuantizedTensor make() {
        w_.format = p_.weight;
        w_.rows = p_.n;
        w_.columns = p_.k;
        w_.group_size = p_.group_size;
        const bool small_floats = format_row(p_.weight).scale != nullptr && !integers();
        if (small_floats) {
            fill_codes();
        } else {
            fill_values();
        }
        if (is_mx(p_.weight)) {
            fill_powers();
        } else if (format_row(p_.weight).scale != nullptr) {
            fill_scales();
        }
        return w_;
    }

  private:
    bool integers() const { return format_row(p_.weight).integers != nullptr; }
    bool nibbles() const { return p_.weight == Format::mxfp4 || p_.weight == Format::mxfp4_dual; }
    float real() { return std::uniform_real_distribution<float>(-1.0F, 1.0F)(random_); }
    int byte() { return std::uniform_int_distribution<int>(-128, 127)(random_); }

    void fill_values() {
        Tensor data(integers() ? DType::i8 : DType::f32, {p_.n, p_.k});
        const bool int4 = p_.weight == Format::int4;
        for (std::int64_t i = 0; i < data.count(); ++i) {
            const bool extreme = fill_ == Fill::extreme;
            if (integers()) {
                const float value = extreme ? extreme_value(i / p_.k, i % p_.k) : static_cast<float>(byte());
                data.mutable_as<std::int8_t>()[i] =
                    static_cast<std::int8_t>(int4 ? std::floor(value / 16) : value);
            } else {
                data.mutable_as<float>()[i] = extreme ? extreme_value(i / p_.k, i % p_.k) : real();
            }
        }
        w_.data = p_.weight == Format::bf16 ? data.to(DType::bf16)
                  : int4                    ? read_int4(data, p_.n, p_.k)
                                            : data;
    }

    /// One code of a small float: any number, or for extreme fills +-the largest, +-the smallest, 0 and -0.
    std::uint8_t code(std::int64_t row, std::int64_t column) {
        const bool e5m2 = p_.weight == Format::fp8_e5m2;
        const int sign = nibbles() ? 0x8 : 0x80, largest = nibbles() ? 0x7 : e5m2 ? 0x7B : 0x7E;
        const auto any = static_cast<unsigned>(byte() + 128);
        if (fill_ == Fill::extreme) {
            const int extremes[] = {largest, largest | sign, 1, sign | 1, 0, sign};
            return static_cast<std::uint8_t>(extremes[row % 3 == 0 ? 0 : any % 6]);
        }
        if (fill_ == Fill::special && !nibbles() && row % 6 == 4 && column == p_.k / 2) return 0x7F;  // NaN
        const int magnitude = static_cast<int>(any) % (largest + 1);
        return static_cast<std::uint8_t>(magnitude | (byte() < 0 ? sign : 0));
    }

    void fill_codes() {
        const DType storage = format_row(p_.weight).storage;
        w_.data = Tensor::zeros(storage, nibbles() ? nibble_shape(p_.n, p_.k) : Shape{p_.n, p_.k});
        auto* data = static_cast<std::uint8_t*>(w_.data.mutable_data());
        for (std::int64_t i = 0; i < p_.n; ++i) {
            for (std::int64_t c = 0; c < p_.k; ++c) {
                if (nibbles()) {
                    put_nibble(data + i * w_.data.dim(1), c, code(i, c));
                } else {
                    data[i * p_.k + c] = code(i, c);
                }
            }
        }
    }

    void fill_scales() {
        const std::int64_t groups = p_.group_size == 0 ? 1 : p_.k / p_.group_size;
        w_.scale = Tensor(DType::f32, {p_.n, groups});
        if (p_.weight_offset) w_.offset = Tensor(DType::f32, {p_.n, groups});
        for (std::int64_t i = 0; i < p_.n * groups; ++i) {
            w_.scale.mutable_as<float>()[i] = (std::abs(real()) + 0.5F) * 0.01F;
            if (p_.weight_offset) w_.offset.mutable_as<float>()[i] = static_cast<float>(byte());
        }
    }

    void fill_powers() {
        w_.scale = Tensor(DType::u8, {p_.n, mx_blocks(p_.k)});
        const bool narrow = p_.y == DType::f16;  // sums that all overflow would hide every mistake
        for (std::int64_t i = 0; i < w_.scale.count(); ++i) {
            const int extremes[] = {0, 1, 60, 100, narrow ? 110 : 180};
            const int power = fill_ == Fill::extreme ? extremes[i % 5] : 125 + byte() / 32;
            w_.scale.mutable_as<std::uint8_t>()[i] = static_cast<std::uint8_t>(power);
        }
        if (p_.weight != Format::mxfp4_dual) return;
        w_.dual_scale = Tensor(DType::f32, {p_.n, mx_dual_blocks(p_.k)});
        for (std::int64_t i = 0; i < w_.dual_scale.count(); ++i) {
            const float scale = std::abs(real()) + 0.5F;
            w_.dual_scale.mutable_as<float>()[i] =
                fill_ == Fill::extreme && !narrow ? std::ldexp(scale, -50) : scale;
        }
    }

    const LinearProblem& p_;
    Fill fill_;
    std::mt19937 random_;
    QuantizedTensor w_;
};

}  // namespace aerogel::testing
