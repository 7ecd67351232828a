// AVX2 building blocks of the linear kernels: the register kernel, rows of x in, rows of y out.
// 6 rows x 2 vectors of sums fill 12 of the 16 registers. Everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "aerogel/number_types.h"
#include "kernels/cpu/linear_driver.h"

namespace aerogel {
namespace {

constexpr std::int64_t kTileRows = 6;
constexpr std::int64_t kTileColumns = 16;
constexpr std::int64_t kLanes = 8;

inline __m256i load_lanes(const std::int32_t* at) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
}

inline void store_lanes(std::int32_t* at, __m256i value) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(at), value);
}

/// One float per step. What the register kernel multiplies with has
///   kIntegers         integers of four bytes that stand for a step of x
///   row(x)            these, in all lanes
///   dot(sum, row, w)  sum += products of a step with 8 columns
struct FloatSteps {
    static constexpr std::int64_t kIntegers = 1;

    static __m256 row(const std::int32_t* x) { return _mm256_castsi256_ps(_mm256_set1_epi32(*x)); }
    static __m256i dot(__m256i sum, __m256 x, const std::int32_t* w) {
        return _mm256_castps_si256(
            _mm256_fmadd_ps(x, _mm256_castsi256_ps(load_lanes(w)), _mm256_castsi256_ps(sum)));
    }
};

template <typename Steps, int kRows, int kVectors>
[[gnu::noinline]] void multiply_rows(const Block& block) {
    constexpr std::int64_t kColumns = kVectors * kLanes;
    __m256i sums[kRows][kVectors];
    auto* out = static_cast<std::int32_t*>(block.sums);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v)
            sums[r][v] = block.first ? _mm256_setzero_si256() : load_lanes(out + r * kColumns + v * kLanes);
    const std::int32_t* x = block.x;
    const auto* w = static_cast<const std::int32_t*>(block.w);
    for (std::int64_t done = 0; done < block.steps; done += Prefetch::kSteps) {
        block.ahead.portion(done / Prefetch::kSteps);
        const std::int64_t left = block.steps - done;
        const std::int64_t count = left < Prefetch::kSteps ? left : Prefetch::kSteps;
        const std::int32_t* end = x + count * Steps::kIntegers;
        for (; x != end; x += Steps::kIntegers, w += kColumns) {
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const auto row = Steps::row(x + r * kRowSteps);
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) sums[r][v] = Steps::dot(sums[r][v], row, w + v * kLanes);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) store_lanes(out + r * kColumns + v * kLanes, sums[r][v]);
}

template <typename Steps, int kRows = static_cast<int>(kTileRows),
          int kVectors = static_cast<int>(kTileColumns / kLanes)>
void multiply_block(std::int64_t rows, const Block& block) {
    if constexpr (kRows > 0) {
        if (rows == kRows) {
            multiply_rows<Steps, kRows, kVectors>(block);
        } else {
            multiply_block<Steps, kRows - 1, kVectors>(rows, block);
        }
    }
}

/// Lanes [0, count) of 8 for masked loads and stores.
inline __m256i lanes(std::int64_t count) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const std::int64_t clamped = count < 0 ? 0 : (count > kLanes ? kLanes : count);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(clamped)), index);
}

/// Up to 8 values; those beyond `count` are 0 and not touched.
inline __m256 load_floats(const float* at, std::int64_t count) {
    return count >= kLanes ? _mm256_loadu_ps(at) : _mm256_maskload_ps(at, lanes(count));
}

inline __m256 load_halves(const BFloat16* at, std::int64_t count) {
    __m128i half;
    if (count >= kLanes) {
        half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    } else {
        BFloat16 some[kLanes] = {};
        for (std::int64_t i = 0; i < count; ++i) some[i] = at[i];
        half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(some));
    }
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/// x' of one row: f32 or bf16, times mul_scale.
struct RowReader {
    RowReader(const LinearProblem& problem, const LinearArgs& args, std::int64_t row)
        : at(row * args.x_stride), x(args.x), wide(problem.x == DType::f32), mul_scale(args.mul_scale) {}

    /// 8 values from column `p`, of which `count` exist.
    __m256 load(std::int64_t p, std::int64_t count) const {
        const __m256 value = wide ? load_floats(static_cast<const float*>(x) + at + p, count)
                                  : load_halves(static_cast<const BFloat16*>(x) + at + p, count);
        return mul_scale == nullptr ? value : _mm256_mul_ps(value, load_floats(mul_scale + p, count));
    }

    std::int64_t at;
    const void* x;
    bool wide;
    const float* mul_scale;
};

/// Round to nearest even; NaNs stay NaNs.
inline __m128i to_bfloat16_lanes(__m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
    const __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i words = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/// Writes up to 8 columns of y.
inline void write_columns(const LinearProblem& problem, void* y, std::int64_t at, __m256 value,
                          std::int64_t count) {
    if (problem.y == DType::f32) {
        // A masked store of all lanes takes AMD's CPUs as long as forty instructions.
        auto* out = static_cast<float*>(y) + at;
        if (count >= kLanes) return _mm256_storeu_ps(out, value);
        return _mm256_maskstore_ps(out, lanes(count), value);
    }
    auto* out = static_cast<std::uint16_t*>(y) + at;
    const __m128i words = problem.y == DType::bf16
                              ? to_bfloat16_lanes(value)
                              : _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (count >= kLanes) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), words);
        return;
    }
    std::uint16_t some[kLanes];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(some), words);
    for (std::int64_t i = 0; i < count; ++i) out[i] = some[i];
}

/// What the float kernels of linear_float.h and linear_dequantize.h need.
struct Avx2Floats {
    static constexpr std::int64_t kRows = kTileRows;
    static constexpr std::int64_t kColumns = kTileColumns;

    static void multiply_floats(std::int64_t rows, const Block& block) {
        multiply_block<FloatSteps>(rows, block);
    }

    static void read_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t row, Range steps,
                         float* out) {
        const RowReader reader(problem, args, row);
        for (std::int64_t p = 0; p < steps.count; p += kLanes) {
            _mm256_store_ps(out + p, reader.load(steps.first + p, steps.count - p));
        }
    }

    static void finish_floats(const LinearProblem& problem, const LinearArgs& args, const Place& place,
                              const float* sums) {
        for (std::int64_t half = 0; half < kColumns; half += kLanes) {
            const std::int64_t column = place.panel * kColumns + half;
            const std::int64_t count = problem.n - column;
            if (count <= 0) return;
            const __m256 bias =
                args.bias == nullptr ? _mm256_set1_ps(-0.0F) : load_floats(args.bias + column, count);
            for (std::int64_t r = 0; r < place.rows; ++r) {
                const __m256 value = _mm256_add_ps(_mm256_load_ps(sums + r * kColumns + half), bias);
                write_columns(problem, args.y, (place.row + r) * args.y_stride + column, value, count);
            }
        }
    }
};

}  // namespace
}  // namespace aerogel
