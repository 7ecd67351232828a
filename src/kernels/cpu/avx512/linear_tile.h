// AVX-512 building blocks of the linear kernels: the register kernel, rows of x in, rows of y out.
// The float kernel's 14 x 32 sums fill 28 of the 32 registers; two are the weights of a step, one the
// broadcast of x. Everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "aerogel/number_types.h"
#include "kernels/cpu/linear_driver.h"

namespace aerogel {
namespace {

constexpr std::int64_t kTileRows = 14;
constexpr std::int64_t kTileColumns = 32;

/// Lanes [0, count) of 16; none for count <= 0, all for count >= 16.
inline __mmask16 lanes(std::int64_t count) {
    if (count >= 16) return 0xFFFF;
    return count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1U << count) - 1U);
}

/// One float per step.
struct FloatSteps {
    static __m512i dot(__m512i sum, __m512i x, __m512i w) {
        return _mm512_castps_si512(
            _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(w), _mm512_castsi512_ps(sum)));
    }
};

/// Four unsigned times signed bytes per step, summed exactly in int32.
struct ByteSteps {
    static __m512i dot(__m512i sum, __m512i x, __m512i w) { return _mm512_dpbusd_epi32(sum, x, w); }
};

template <typename Steps, int kVectors, int kRows>
[[gnu::noinline]] void multiply_rows(const Block& block) {
    constexpr std::int64_t kPanel = kVectors * 16;
    __m512i sums[kRows][kVectors];
    auto* out = static_cast<std::int32_t*>(block.sums);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j)
            sums[r][j] = block.first ? _mm512_setzero_si512() : _mm512_load_si512(out + r * kPanel + j * 16);
    const std::int32_t* x = block.x;
    const auto* w = static_cast<const std::int32_t*>(block.w);
    for (std::int64_t done = 0; done < block.steps; done += Prefetch::kSteps) {
        block.ahead.portion(done / Prefetch::kSteps);
        const std::int64_t left = block.steps - done;
        const std::int32_t* end = x + (left < Prefetch::kSteps ? left : Prefetch::kSteps);
        for (; x != end; ++x, w += kPanel) {
            __m512i columns[kVectors];
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) columns[j] = _mm512_load_si512(w + j * 16);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const __m512i broadcast = _mm512_set1_epi32(x[r * kRowSteps]);
#pragma GCC unroll 4
                for (int j = 0; j < kVectors; ++j) sums[r][j] = Steps::dot(sums[r][j], broadcast, columns[j]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) _mm512_store_si512(out + r * kPanel + j * 16, sums[r][j]);
}

/// Sums of `rows` <= kRows rows and kVectors * 16 columns.
template <typename Steps, int kVectors, int kRows>
void multiply_block(std::int64_t rows, const Block& block) {
    if constexpr (kRows > 0) {
        if (rows == kRows) {
            multiply_rows<Steps, kVectors, kRows>(block);
        } else {
            multiply_block<Steps, kVectors, kRows - 1>(rows, block);
        }
    }
}

/// x' of one row: f32 or bf16, times mul_scale.
struct RowReader {
    RowReader(const LinearProblem& problem, const LinearArgs& args, std::int64_t row)
        : wide(problem.x == DType::f32), mul_scale(args.mul_scale) {
        const std::int64_t at = row * args.x_stride;
        x = wide ? static_cast<const void*>(static_cast<const float*>(args.x) + at)
                 : static_cast<const void*>(static_cast<const BFloat16*>(args.x) + at);
    }

    /// 16 values from column `at`; those outside the mask are 0 and not touched.
    __m512 load(std::int64_t at, __mmask16 mask) const {
        __m512 value;
        if (wide) {
            value = _mm512_maskz_loadu_ps(mask, static_cast<const float*>(x) + at);
        } else {
            const __m256i half = _mm256_maskz_loadu_epi16(mask, static_cast<const BFloat16*>(x) + at);
            value = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
        }
        return mul_scale == nullptr
                   ? value
                   : _mm512_maskz_mul_ps(mask, value, _mm512_maskz_loadu_ps(mask, mul_scale + at));
    }

    const void* x;
    bool wide;
    const float* mul_scale;
};

/// Round to nearest even; NaNs stay NaNs.
inline __m256i to_bfloat16_lanes(__m512 value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}

/// Writes 16 columns of y.
inline void write_columns(const LinearProblem& problem, void* y, std::int64_t at, __m512 value,
                          __mmask16 mask) {
    if (problem.y == DType::f32) {
        _mm512_mask_storeu_ps(static_cast<float*>(y) + at, mask, value);
        return;
    }
    const __m256i words = problem.y == DType::bf16
                              ? to_bfloat16_lanes(value)
                              : _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(static_cast<std::uint16_t*>(y) + at, mask, words);
}

/// What the float kernels of linear_float.h and linear_dequantize.h need.
struct Avx512Floats {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;

    static void multiply_floats(std::int64_t rows, const Block& block) {
        multiply_block<FloatSteps, 2, static_cast<int>(kTileRows)>(rows, block);
    }

    static void read_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t row, Range steps,
                         float* out) {
        const RowReader reader(problem, args, row);
        for (std::int64_t p = 0; p < steps.count; p += 16) {
            _mm512_store_ps(out + p, reader.load(steps.first + p, lanes(steps.count - p)));
        }
    }

    static void finish_floats(const LinearProblem& problem, const LinearArgs& args, const Place& place,
                              const float* sums) {
        for (std::int64_t half = 0; half < kColumns; half += 16) {
            const std::int64_t column = place.panel * kColumns + half;
            const __mmask16 mask = lanes(problem.n - column);
            const __m512 bias = args.bias == nullptr ? _mm512_set1_ps(-0.0F)
                                                     : _mm512_maskz_loadu_ps(mask, args.bias + column);
            for (std::int64_t r = 0; r < place.rows; ++r) {
                const __m512 value = _mm512_add_ps(_mm512_load_ps(sums + r * kColumns + half), bias);
                write_columns(problem, args.y, (place.row + r) * args.y_stride + column, value, mask);
            }
        }
    }
};

}  // namespace
}  // namespace aerogel
