// Rotations of rows in registers of eight floats: the first passes inside of a vector, the others between
// vectors. Everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/rotation_loops.h"
#include "kernels/hadamard.h"

namespace aerogel {
namespace {

/// 1 / sqrt(block), rounded twice.
inline float rotation_norm(std::int64_t block) {
    return 1.0F / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(static_cast<float>(block))));
}

/// Hadamard's passes at distances of 1, 2 and 4.
inline __m256 hadamard_lanes(__m256 v) {
    const __m256 odd = _mm256_setr_ps(0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F);
    const __m256 upper_pairs = _mm256_setr_ps(0.0F, 0.0F, -0.0F, -0.0F, 0.0F, 0.0F, -0.0F, -0.0F);
    const __m256 upper_half = _mm256_setr_ps(0.0F, 0.0F, 0.0F, 0.0F, -0.0F, -0.0F, -0.0F, -0.0F);
    v = _mm256_add_ps(_mm256_permute_ps(v, 0xB1), _mm256_xor_ps(v, odd));
    v = _mm256_add_ps(_mm256_permute_ps(v, 0x4E), _mm256_xor_ps(v, upper_pairs));
    return _mm256_add_ps(_mm256_permute2f128_ps(v, v, 1), _mm256_xor_ps(v, upper_half));
}

inline void hadamard_block(float* y, std::int64_t block) {
    for (std::int64_t i = 0; i < block; i += 8)
        _mm256_storeu_ps(y + i, hadamard_lanes(_mm256_loadu_ps(y + i)));
    for (std::int64_t half = 8; half < block; half *= 2) {
        for (std::int64_t first = 0; first < block; first += 2 * half) {
            for (std::int64_t i = first; i < first + half; i += 8) {
                const __m256 a = _mm256_loadu_ps(y + i), b = _mm256_loadu_ps(y + i + half);
                _mm256_storeu_ps(y + i, _mm256_add_ps(a, b));
                _mm256_storeu_ps(y + i + half, _mm256_sub_ps(a, b));
            }
        }
    }
}

/// ConvRot's pass at a distance of 1: [a+b, a-b, c+d, c-d], then its sums and differences.
inline __m256 convrot_lanes(__m256 v) {
    const __m256 odd = _mm256_setr_ps(0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F, 0.0F, -0.0F);
    const __m256 pairs = _mm256_add_ps(_mm256_permute_ps(v, 0xB1), _mm256_xor_ps(v, odd));
    return _mm256_add_ps(_mm256_permute_ps(pairs, 0xA0), _mm256_xor_ps(_mm256_permute_ps(pairs, 0x5F), odd));
}

/// At a distance of 4: a and b are the halves of the first vector, c and d of the second.
inline void convrot_halves(__m256& first, __m256& second) {
    const __m256 ac = _mm256_permute2f128_ps(first, second, 0x20);
    const __m256 bd = _mm256_permute2f128_ps(first, second, 0x31);
    const __m256 sums = _mm256_add_ps(ac, bd), differences = _mm256_sub_ps(ac, bd);
    const __m256 crossed = _mm256_permute2f128_ps(differences, differences, 1);
    const __m256 even = _mm256_add_ps(sums, crossed), odd = _mm256_sub_ps(sums, crossed);
    first = _mm256_permute2f128_ps(even, odd, 0x20);
    second = _mm256_permute2f128_ps(even, odd, 0x31);
}

/// A block of at least 16.
inline void convrot_block(float* y, std::int64_t block) {
    for (std::int64_t i = 0; i < block; i += 16) {
        __m256 first = convrot_lanes(_mm256_loadu_ps(y + i));
        __m256 second = convrot_lanes(_mm256_loadu_ps(y + i + 8));
        convrot_halves(first, second);
        _mm256_storeu_ps(y + i, first);
        _mm256_storeu_ps(y + i + 8, second);
    }
    for (std::int64_t step = 16; step < block; step *= 4) {
        for (std::int64_t from = 0; from < block; from += 4 * step) {
            for (std::int64_t i = from; i < from + step; i += 8) {
                const __m256 a = _mm256_loadu_ps(y + i), b = _mm256_loadu_ps(y + i + step);
                const __m256 c = _mm256_loadu_ps(y + i + 2 * step), d = _mm256_loadu_ps(y + i + 3 * step);
                const __m256 sum = _mm256_add_ps(a, b), difference = _mm256_sub_ps(a, b);
                const __m256 far_sum = _mm256_add_ps(c, d), far_difference = _mm256_sub_ps(c, d);
                _mm256_storeu_ps(y + i, _mm256_add_ps(sum, far_difference));
                _mm256_storeu_ps(y + i + step, _mm256_sub_ps(sum, far_difference));
                _mm256_storeu_ps(y + i + 2 * step, _mm256_add_ps(difference, far_sum));
                _mm256_storeu_ps(y + i + 3 * step, _mm256_sub_ps(far_sum, difference));
            }
        }
    }
}

/// One block in place, its factors applied before.
inline void transform_block(float* y, RotationShape shape) {
    const bool convrot = shape.kind == RotationKind::convrot;
    if (shape.block < (convrot ? 16 : 8)) return transform_in_loops(y, shape);
    convrot ? convrot_block(y, shape.block) : hadamard_block(y, shape.block);
}

}  // namespace
}  // namespace aerogel
