// SSE2 building blocks of the float linear kernels: the register kernel, rows of x in, rows of y out.
// 6 x 8 sums fill 12 of the 16 registers; two are the weights of a step, one the broadcast of x, one the
// product. Everything is local to the including file.
#pragma once

#include "aerogel/number_types.h"
#include "kernels/cpu/baseline/vector.h"
#include "kernels/cpu/linear_driver.h"

namespace aerogel {
namespace {

template <int kRows>
[[gnu::noinline]] void multiply_rows(const Block& block) {
    constexpr std::int64_t kLanes = Sse2::kLanes;
    Sse2::V sums[kRows][2];
    auto* out = static_cast<float*>(block.sums);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        sums[r][0] = block.first ? Sse2::zero() : Sse2::load(out + r * 2 * kLanes);
        sums[r][1] = block.first ? Sse2::zero() : Sse2::load(out + (r * 2 + 1) * kLanes);
    }
    const auto* x = reinterpret_cast<const float*>(block.x);
    const auto* w = static_cast<const float*>(block.w);
    for (std::int64_t step = 0; step < block.steps; ++step, ++x, w += 2 * kLanes) {
        if (step % Prefetch::kSteps == 0) block.ahead.portion(step / Prefetch::kSteps);
        const Sse2::V w0 = Sse2::load(w), w1 = Sse2::load(w + kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const Sse2::V broadcast = Sse2::set1(x[r * kRowSteps]);
            sums[r][0] = Sse2::fma(broadcast, w0, sums[r][0]);
            sums[r][1] = Sse2::fma(broadcast, w1, sums[r][1]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        Sse2::store(out + r * 2 * kLanes, sums[r][0]);
        Sse2::store(out + (r * 2 + 1) * kLanes, sums[r][1]);
    }
}

template <int kRows>
void multiply_block(std::int64_t rows, const Block& block) {
    if constexpr (kRows > 0) {
        if (rows == kRows) {
            multiply_rows<kRows>(block);
        } else {
            multiply_block<kRows - 1>(rows, block);
        }
    }
}

/// What the float kernels of linear_float.h and linear_dequantize.h need.
struct Sse2Floats {
    static constexpr std::int64_t kRows = 6;
    static constexpr std::int64_t kColumns = 2 * Sse2::kLanes;

    static void multiply_floats(std::int64_t rows, const Block& block) {
        multiply_block<static_cast<int>(kRows)>(rows, block);
    }

    static void read_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t row, Range steps,
                         float* out) {
        const std::int64_t at = row * args.x_stride + steps.first;
        for (std::int64_t p = 0; p < steps.count; p += Sse2::kLanes) {
            const std::int64_t left = steps.count - p;
            const std::int64_t count = left < Sse2::kLanes ? left : Sse2::kLanes;
            Sse2::V x;
            if (problem.x == DType::f32) {
                x = Sse2::load_part(static_cast<const float*>(args.x) + at + p, count);
            } else {
                float part[Sse2::kLanes] = {};
                const auto* halves = static_cast<const BFloat16*>(args.x) + at + p;
                for (std::int64_t i = 0; i < count; ++i) part[i] = to_float(halves[i]);
                x = Sse2::load(part);
            }
            const bool scaled = args.mul_scale != nullptr;
            if (scaled) x = Sse2::mul(x, Sse2::load_part(args.mul_scale + steps.first + p, count));
            Sse2::store(out + p, x);
        }
    }

    static void finish_floats(const LinearProblem& problem, const LinearArgs& args, const Place& place,
                              const float* sums) {
        const std::int64_t first = place.panel * kColumns;
        for (std::int64_t r = 0; r < place.rows; ++r) {
            const std::int64_t at = (place.row + r) * args.y_stride + first;
            for (std::int64_t j = 0; j < kColumns && first + j < problem.n; ++j) {
                const float y =
                    sums[r * kColumns + j] + (args.bias == nullptr ? -0.0F : args.bias[first + j]);
                if (problem.y == DType::f32) {
                    static_cast<float*>(args.y)[at + j] = y;
                } else if (problem.y == DType::bf16) {
                    static_cast<BFloat16*>(args.y)[at + j] = to_bfloat16(y);
                } else {
                    static_cast<Float16*>(args.y)[at + j] = to_float16(y);
                }
            }
        }
    }
};

}  // namespace
}  // namespace aerogel
