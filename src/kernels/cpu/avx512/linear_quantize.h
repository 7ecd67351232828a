// The two ends of W8A8 with AVX-512: rows of x to int8 (dynamic per token or static per tensor), and int32
// sums to y. Exactly the float32 operations that kernels/linear.h spells out, in that order.
// Everything is local to the including file; the AMX kernel uses it too.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/avx512/linear_tile.h"
#include "kernels/cpu/avx512/rotation.h"
#include "kernels/cpu/byte_order.h"
#include "kernels/cpu/linear_w8a8.h"

namespace aerogel {
namespace {

/// s_t of a row, NaN when the row is not finite. Among floats without sign, order is integer order, and
/// infinities and NaNs come last.
inline float token_scale(const RowReader& row, std::int64_t k, float top) {
    __m512i largest = _mm512_setzero_si512();
    for (std::int64_t p = 0; p < k; p += 16) {
        const __m512i bits = _mm512_castps_si512(row.load(p, lanes(k - p)));
        largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF)));
    }
    const std::int32_t bits = _mm512_reduce_max_epi32(largest);
    if (bits >= 0x7F800000) return __builtin_nanf("");
    const float scale = __builtin_bit_cast(float, bits) / top;
    return scale == 0 ? 1.0F : scale;
}

/// Row i of x rotated, as floats; `out` has room for a whole vector at its end.
inline void rotated_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
    const RotationShape shape = args.rotation.shape;
    const float* factors = args.rotation.factors;
    const RowReader row(problem, args, i);
    const __m512 norm = _mm512_set1_ps(rotation_norm(shape.block));
    for (std::int64_t p = 0; p < problem.k; p += 16) {
        const __mmask16 mask = lanes(problem.k - p);
        const __m512 by =
            factors == nullptr ? norm : _mm512_mul_ps(norm, _mm512_maskz_loadu_ps(mask, factors + p));
        _mm512_storeu_ps(out + p, _mm512_mul_ps(row.load(p, mask), by));
    }
    for (std::int64_t p = 0; p < problem.k; p += shape.block) transform_block(out + p, shape);
}

/// x' / s rounded to int8, saturated.
inline __m128i round_to_int8(__m512 value) {
    return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(value));
}

inline __m128i quantize_dynamic(__m512 x, __m512 divisor, int top) {
    const __m512i q = _mm512_cvtps_epi32(_mm512_div_ps(x, divisor));
    const __m512i clamped =
        _mm512_min_epi32(_mm512_max_epi32(q, _mm512_set1_epi32(~top)), _mm512_set1_epi32(top));
    return _mm512_cvtepi32_epi8(clamped);
}

inline __m128i quantize_static(const LinearArgs& args, __m512 x) {
    const __m512 offset = _mm512_set1_ps(args.input_offset);
    const __m512 q = _mm512_add_ps(_mm512_div_ps(x, _mm512_set1_ps(args.input_scale)), offset);
    const __mmask16 nan = _mm512_cmp_ps_mask(q, q, _CMP_UNORD_Q);
    const __m512 known = _mm512_mask_mov_ps(q, nan, offset);
    const __m512 low = _mm512_set1_ps(-128.0F);
    return round_to_int8(_mm512_min_ps(_mm512_max_ps(known, low), _mm512_set1_ps(127.0F)));
}

/// Row i as bytes, four per step; the bits of `flip` flipped: 0 for x_q itself, 0x80 for x_q + 128 unsigned.
inline void quantize_bytes(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                           std::int64_t i, char flip, ByteOrder order = ByteOrder::plain) {
    const __m128i places = places_of(order);
    const RowReader row(problem, args, i);
    const bool dynamic = problem.activation != Activation::per_tensor;
    const int top = problem.activation == Activation::per_token_int4 ? 7 : 127;
    const float s_t = dynamic ? token_scale(row, problem.k, static_cast<float>(top)) : 1.0F;
    rows.scale(args.workspace)[i] = s_t;
    const bool finite = s_t == s_t;
    const __m512 divisor = _mm512_set1_ps(s_t);
    constexpr std::int64_t kBlock = kBlockSteps * 4;
    for (std::int64_t block = 0; block * kBlock < problem.k; ++block) {
        auto* out = reinterpret_cast<__m128i*>(rows.row(args.workspace, i, block));
        const std::int64_t left = problem.k - block * kBlock;
        const std::int64_t end = left < kBlock ? left : kBlock;
        for (std::int64_t p = 0; p < end; p += 16) {
            const __m512 x = row.load(block * kBlock + p, lanes(left - p));
            __m128i q = _mm_setzero_si128();
            if (!dynamic) {
                q = quantize_static(args, x);
            } else if (finite) {
                q = quantize_dynamic(x, divisor, top);
            }
            const __m128i ordered = _mm_shuffle_epi8(q, places);
            _mm_store_si128(out + p / 16, _mm_xor_si128(ordered, _mm_set1_epi8(flip)));
        }
    }
}

/// Sums of 16 columns to y.
struct ColumnFinish {
    ColumnFinish(const Finish& finish, std::int64_t first)
        : problem(finish.problem), args(finish.args), column(first), mask(lanes(finish.problem.n - first)) {
        const bool dynamic = problem.activation != Activation::per_tensor;
        scale = dynamic ? _mm512_load_ps(args.packed + finish.layout.scale + first * 4)
                        : _mm512_maskz_loadu_ps(mask, args.deq_scale + first);
        has_bias = dynamic && args.bias != nullptr;
        if (has_bias) bias = _mm512_maskz_loadu_ps(mask, args.bias + first);
        if (!dynamic) quant_bias = _mm512_maskz_loadu_epi32(mask, args.quant_bias + first);
    }

    void write(std::int64_t row, __m512i sum, float s_t) const {
        const __m512 value = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, quant_bias));
        __m512 y = _mm512_mul_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(s_t));
        if (has_bias) y = _mm512_add_ps(y, bias);
        write_columns(problem, args.y, row * args.y_stride + column, y, mask);
    }

    const LinearProblem& problem;
    const LinearArgs& args;
    std::int64_t column;
    __mmask16 mask;
    bool has_bias;
    __m512 scale;
    __m512 bias = _mm512_setzero_ps();
    __m512i quant_bias = _mm512_setzero_si512();
};

}  // namespace
}  // namespace aerogel
