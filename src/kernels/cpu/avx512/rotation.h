// Rotations of rows in registers of sixteen floats: the first passes inside of a vector, the others between
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

/// a + b, and a - b in the lanes of the mask.
inline __m512 add_or_subtract(__m512 a, __m512 b, __mmask16 subtract) {
    return _mm512_mask_sub_ps(_mm512_add_ps(a, b), subtract, a, b);
}

/// Hadamard's passes at distances of 1, 2, 4 and 8.
inline __m512 hadamard_lanes(__m512 v) {
    v = add_or_subtract(_mm512_permute_ps(v, 0xB1), v, 0xAAAA);
    v = add_or_subtract(_mm512_permute_ps(v, 0x4E), v, 0xCCCC);
    v = add_or_subtract(_mm512_shuffle_f32x4(v, v, 0xB1), v, 0xF0F0);
    return add_or_subtract(_mm512_shuffle_f32x4(v, v, 0x4E), v, 0xFF00);
}

inline void hadamard_block(float* y, std::int64_t block) {
    for (std::int64_t i = 0; i < block; i += 16)
        _mm512_storeu_ps(y + i, hadamard_lanes(_mm512_loadu_ps(y + i)));
    for (std::int64_t half = 16; half < block; half *= 2) {
        for (std::int64_t first = 0; first < block; first += 2 * half) {
            for (std::int64_t i = first; i < first + half; i += 16) {
                const __m512 a = _mm512_loadu_ps(y + i), b = _mm512_loadu_ps(y + i + half);
                _mm512_storeu_ps(y + i, _mm512_add_ps(a, b));
                _mm512_storeu_ps(y + i + half, _mm512_sub_ps(a, b));
            }
        }
    }
}

/// ConvRot's passes at distances of 1 and 4: [a+b, a-b, c+d, c-d], then its sums and differences.
inline __m512 convrot_lanes(__m512 v) {
    __m512 pairs = add_or_subtract(_mm512_permute_ps(v, 0xB1), v, 0xAAAA);
    v = add_or_subtract(_mm512_permute_ps(pairs, 0xA0), _mm512_permute_ps(pairs, 0x5F), 0xAAAA);
    pairs = add_or_subtract(_mm512_shuffle_f32x4(v, v, 0xB1), v, 0xF0F0);
    return add_or_subtract(_mm512_shuffle_f32x4(pairs, pairs, 0xA0), _mm512_shuffle_f32x4(pairs, pairs, 0x5F),
                           0xF0F0);
}

struct FourVectors {
    __m512 a, b, c, d;
};

inline FourVectors convrot_four(const FourVectors& v) {
    const __m512 sum = _mm512_add_ps(v.a, v.b), difference = _mm512_sub_ps(v.a, v.b);
    const __m512 far_sum = _mm512_add_ps(v.c, v.d), far_difference = _mm512_sub_ps(v.c, v.d);
    return {_mm512_add_ps(sum, far_difference), _mm512_sub_ps(sum, far_difference),
            _mm512_add_ps(difference, far_sum), _mm512_sub_ps(far_sum, difference)};
}

inline void store_four(float* y, std::int64_t step, const FourVectors& v) {
    _mm512_storeu_ps(y, v.a);
    _mm512_storeu_ps(y + step, v.b);
    _mm512_storeu_ps(y + 2 * step, v.c);
    _mm512_storeu_ps(y + 3 * step, v.d);
}

/// A block of at least 16; from 64 on the third pass follows while the values are in registers.
inline void convrot_block(float* y, std::int64_t block) {
    if (block == 16) return _mm512_storeu_ps(y, convrot_lanes(_mm512_loadu_ps(y)));
    for (std::int64_t i = 0; i < block; i += 64) {
        const FourVectors v = {
            convrot_lanes(_mm512_loadu_ps(y + i)), convrot_lanes(_mm512_loadu_ps(y + i + 16)),
            convrot_lanes(_mm512_loadu_ps(y + i + 32)), convrot_lanes(_mm512_loadu_ps(y + i + 48))};
        store_four(y + i, 16, convrot_four(v));
    }
    for (std::int64_t step = 64; step < block; step *= 4) {
        for (std::int64_t from = 0; from < block; from += 4 * step) {
            for (float* at = y + from; at < y + from + step; at += 16) {
                store_four(at, step,
                           convrot_four({_mm512_loadu_ps(at), _mm512_loadu_ps(at + step),
                                         _mm512_loadu_ps(at + 2 * step), _mm512_loadu_ps(at + 3 * step)}));
            }
        }
    }
}

/// One block in place, its factors applied before.
inline void transform_block(float* y, RotationShape shape) {
    if (shape.block < 16) return transform_in_loops(y, shape);
    shape.kind == RotationKind::convrot ? convrot_block(y, shape.block) : hadamard_block(y, shape.block);
}

}  // namespace
}  // namespace aerogel
