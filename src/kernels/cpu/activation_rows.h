// Rows of x as floats in the workspace of a linear kernel, quantized and dequantized where the activation
// says so: element by element what kernels/reference/activations.cpp computes, times the row's or block's
// factor. `Isa` has V and its operations (vector.h) and
//   read_row(problem, args, row, columns, out)   x' as float32, zeros up to a whole vector
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/linear_driver.h"

namespace aerogel {
namespace {

/// [blocks of columns][rows][stride] floats; 64-byte aligned where the base is.
struct FloatRows {
    FloatRows(std::int64_t row_count, std::int64_t column_count, std::int64_t columns_per_block)
        : rows(row_count),
          columns(column_count),
          block(columns_per_block),
          stride(block + 16),
          bytes(static_cast<std::size_t>(ceil_div(columns, block) * rows * stride) * 4) {}

    float* row(std::byte* base, std::int64_t i, std::int64_t block_index) const {
        return reinterpret_cast<float*>(base) + (block_index * rows + i) * stride;
    }

    std::int64_t rows;
    std::int64_t columns;
    std::int64_t block;  ///< a multiple of 32
    std::int64_t stride;
    std::size_t bytes;
};

inline float normal_or_one(float scale) {
    return scale >= 0x1p-126F && scale < __builtin_inff() ? scale : 1.0F;
}

/// 2^exponent for -127 <= exponent <= 127.
inline float power_of_two(int exponent) {
    const std::uint32_t bits =
        exponent == -127 ? 0x00400000U : static_cast<std::uint32_t>(exponent + 127) << 23;
    return __builtin_bit_cast(float, bits);
}

/// An element of a small float format: mantissa bits, smallest normal, largest, floor(log2(largest)).
struct SmallFloat {
    int mantissa;
    float smallest;
    float largest;
    int largest_exponent;
};
constexpr SmallFloat kE4M3 = {3, 0x1p-6F, 448.0F, 8};
constexpr SmallFloat kE2M1 = {1, 1.0F, 6.0F, 2};
constexpr SmallFloat kBf16 = {7, 0x1p-126F, __builtin_inff(), 127};

template <typename Isa>
class ActivationRow {
    using V = typename Isa::V;

  public:
    ActivationRow(const FloatRows& rows, std::byte* base, std::int64_t i) : rows_(rows), base_(base), i_(i) {}

    void read(const LinearProblem& problem, const LinearArgs& args, std::int64_t row) const {
        for (std::int64_t first = 0; first < rows_.columns; first += rows_.block) {
            const std::int64_t left = rows_.columns - first;
            Isa::read_row(problem, args, row, {first, left < rows_.block ? left : rows_.block},
                          rows_.row(base_, i_, first / rows_.block));
        }
    }

    /// In place: x' becomes what the quantized row stands for; all NaN when any of it is not finite.
    void quantize(const LinearProblem& problem) const {
        const Range all = {0, rows_.columns};
        const float largest = largest_of(all);
        if (largest != largest) {
            each(all, [&](V) { return Isa::set1(largest); });
        } else if (problem.activation == Activation::per_token_fp8) {
            quantize_scaled(all, normal_or_one(largest / 448.0F));
        } else if (problem.activation == Activation::mxfp4_dual) {
            for_each_block(all, kDualBlock, [&](Range block) { quantize_dual(block, problem.x); });
        } else {
            const SmallFloat element = problem.activation == Activation::mxfp8 ? kE4M3 : kE2M1;
            for_each_block(all, kMxBlock, [&](Range block) { quantize_mx(block, element); });
        }
    }

    /// In place: x' becomes the integers of int8 or int4, as floats. Returns s_t; a row that is not finite
    /// becomes 0 and NaN.
    float quantize_integers(const LinearProblem& problem) const {
        const float top = problem.activation == Activation::per_token_int4 ? 7.0F : 127.0F;
        const Range all = {0, rows_.columns};
        const float largest = largest_of(all);
        const bool finite = largest == largest;
        const float scale = largest / top == 0 ? 1.0F : largest / top;
        const V s = Isa::set1(scale), low = Isa::set1(-top - 1), high = Isa::set1(top);
        each(all, [&](V x) {
            return finite ? Isa::smaller(Isa::larger(Isa::round(Isa::div(x, s)), low), high) : Isa::zero();
        });
        return scale;
    }

  private:
    static constexpr std::int64_t kMxBlock = 32;
    static constexpr std::int64_t kDualBlock = 512;

    template <typename F>
    static void for_each_block(Range range, std::int64_t width, F f) {
        const std::int64_t end = range.first + range.count;
        for (std::int64_t first = range.first; first < end; first += width) {
            f(Range{first, end - first < width ? end - first : width});
        }
    }

    /// x = f(x) for every vector of a range that starts at a multiple of 32.
    template <typename F>
    void each(Range range, F f) const {
        const std::int64_t end = range.first + range.count;
        for (std::int64_t first = range.first; first < end;) {
            const std::int64_t block_end = (first / rows_.block + 1) * rows_.block;
            const std::int64_t stop = end < block_end ? end : block_end;
            float* at = rows_.row(base_, i_, first / rows_.block) + first % rows_.block;
            for (std::int64_t p = first; p < stop; p += Isa::kLanes, at += Isa::kLanes) {
                Isa::store(at, f(Isa::load(at)));
            }
            first = stop;
        }
    }

    /// max|x|, NaN when any value is not finite.
    float largest_of(Range range) const {
        V largest = Isa::zero(), finite = Isa::zero();
        each(range, [&](V x) {
            largest = Isa::larger(largest, Isa::absolute(x));
            finite = Isa::fma(x, Isa::zero(), finite);
            return x;
        });
        return Isa::reduce_larger(largest) + Isa::reduce_add(finite);
    }

    /// To nearest, ties to even, without an upper end: x + c has its last bit where the element has it.
    static V round(V x, const SmallFloat& element) {
        const V power = Isa::larger(Isa::power_below(x), Isa::set1(element.smallest));
        const V c = Isa::mul(power, Isa::set1(1.5F * static_cast<float>(1 << (23 - element.mantissa))));
        return Isa::sub(Isa::add(x, c), c);
    }

    static V round_saturating(V x, const SmallFloat& element) {
        const V low = Isa::larger(round(x, element), Isa::set1(-element.largest));
        return Isa::smaller(low, Isa::set1(element.largest));
    }

    void quantize_scaled(Range range, float scale) const {
        const V s = Isa::set1(scale);
        each(range, [&](V x) { return Isa::mul(round_saturating(Isa::div(x, s), kE4M3), s); });
    }

    void quantize_mx(Range range, const SmallFloat& element) const {
        const auto bits = __builtin_bit_cast(std::uint32_t, largest_of(range));
        const int wanted = static_cast<int>(bits >> 23) - 127 - element.largest_exponent;
        const int exponent = wanted < -127 ? -127 : wanted;
        const V up = Isa::set1(power_of_two(exponent)), down = Isa::set1(power_of_two(-exponent));
        each(range, [&](V x) { return Isa::mul(round_saturating(Isa::mul(x, down), element), up); });
    }

    void quantize_dual(Range range, DType type) const {
        const float scale = normal_or_one(largest_of(range) / 6.0F);
        const V s = Isa::set1(scale);
        each(range, [&](V x) {
            const V scaled = Isa::div(x, s);
            return type == DType::bf16 ? round(scaled, kBf16) : scaled;
        });
        for_each_block(range, kMxBlock, [&](Range block) { quantize_mx(block, kE2M1); });
        each(range, [&](V x) { return Isa::mul(x, s); });
    }

    const FloatRows& rows_;
    std::byte* base_;
    std::int64_t i_;
};

/// Rows [first, first + rows.rows) of x into the workspace, in parallel.
template <typename Isa>
void fill_rows(const LinearProblem& problem, const LinearArgs& args, const FloatRows& rows,
               std::int64_t first) {
    constexpr std::int64_t kRowsPerTask = 8;
    parallel_for(ceil_div(rows.rows, kRowsPerTask), [&](std::int64_t task, int) {
        for (std::int64_t i = task * kRowsPerTask; i < (task + 1) * kRowsPerTask && i < rows.rows; ++i) {
            const ActivationRow<Isa> row(rows, args.workspace, i);
            row.read(problem, args, first + i);
            if (problem.activation != Activation::none) row.quantize(problem);
        }
    });
}

}  // namespace
}  // namespace aerogel
