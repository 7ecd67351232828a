// Sixteen floats of AVX-512 with the names that the shared loops of kernels/cpu use. Only for sources
// compiled for AVX-512; local to each of them.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/bf16_bits.h"

namespace aerogel {
namespace {

struct Avx512 {
    using V = __m512;
    static constexpr std::int64_t kLanes = 16;

    static V zero() { return _mm512_setzero_ps(); }
    static V set1(float x) { return _mm512_set1_ps(x); }
    static V load(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
    static V add(V a, V b) { return _mm512_add_ps(a, b); }
    static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
    static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
    static V div(V a, V b) { return _mm512_div_ps(a, b); }
    static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
    static V fmsub(V a, V b, V c) { return _mm512_fmsub_ps(a, b, c); }
    static V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
    /// What square = a * a lost by rounding.
    static V square_error(V a, V square) { return fmsub(a, a, square); }
    /// The second where either is NaN.
    static V larger(V a, V b) { return _mm512_max_ps(a, b); }
    static V smaller(V a, V b) { return _mm512_min_ps(a, b); }
    static V absolute(V x) { return _mm512_abs_ps(x); }
    /// 2^floor(log2|x|); 0 where x is 0 or denormal.
    static V power_below(V x) { return _mm512_and_ps(x, set1(__builtin_inff())); }
    /// a where x < 0, else b.
    static V where_negative(V x, V a, V b) {
        return _mm512_mask_mov_ps(b, _mm512_cmp_ps_mask(x, zero(), _CMP_LT_OQ), a);
    }
    static float first(V x) { return _mm512_cvtss_f32(x); }
    static float reduce_add(V x) {
        x = add(x, _mm512_shuffle_f32x4(x, x, 0x4E));
        x = add(x, _mm512_shuffle_f32x4(x, x, 0xB1));
        x = add(x, _mm512_permute_ps(x, 0x4E));
        return first(add(x, _mm512_permute_ps(x, 0xB1)));
    }
    static float reduce_larger(V x) {
        x = larger(x, _mm512_shuffle_f32x4(x, x, 0x4E));
        x = larger(x, _mm512_shuffle_f32x4(x, x, 0xB1));
        x = larger(x, _mm512_permute_ps(x, 0x4E));
        return first(larger(x, _mm512_permute_ps(x, 0xB1)));
    }

    static __mmask16 lanes_below(std::int64_t count) {
        return static_cast<__mmask16>((1U << static_cast<unsigned>(count)) - 1U);
    }
    /// The first `count` lanes; the others are zero.
    static V load_part(const float* p, std::int64_t count) {
        return _mm512_maskz_loadu_ps(lanes_below(count), p);
    }
    static void store_part(float* p, std::int64_t count, V x) {
        _mm512_mask_storeu_ps(p, lanes_below(count), x);
    }

    static V load_part(const Bf16Bits* p, std::int64_t count) {
        const __m256i bits = _mm256_maskz_loadu_epi16(lanes_below(count), p);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    /// Rounds to nearest, ties to even; NaN becomes the quiet NaN 0x7fc0.
    static void store_part(Bf16Bits* p, std::int64_t count, V x) {
        const __m512i bits = _mm512_castps_si512(x);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
        rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                                        _mm512_set1_epi32(0x7FC00000));
        _mm256_mask_storeu_epi16(p, lanes_below(count),
                                 _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
    }

    /// 2^x, within 3.1 ulp; 0 below 2^-126, NaN for NaN. 2^(x - floor(x)) by a polynomial that is exact at 0.
    static V exp2(V x) {
        const V r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        V p = set1(0x1.e97502p-10F);
        p = fma(p, r, set1(0x1.277854p-7F));
        p = fma(p, r, set1(0x1.c91ce6p-5F));
        p = fma(p, r, set1(0x1.ebdb56p-3F));
        p = fma(p, r, set1(0x1.62e4bap-1F));
        p = fma(p, r, set1(1.0F));
        const __mmask16 normal = _mm512_cmp_ps_mask(x, set1(-126.0F), _CMP_NLT_UQ);
        return _mm512_maskz_scalef_ps(normal, p, x);
    }

    /// round(x) for |x| < 2^22; NaN for NaN.
    static V round(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    /// x * 2^n for an integral n <= 128, where n < -126 may give 0 and 128 infinity.
    static V scale_by_power(V x, V n) { return _mm512_scalef_ps(x, n); }

    /// {p0, p0, p1, p1, ...} of `count` floats; the other lanes are zero.
    static V load_twice(const float* p, std::int64_t count) {
        const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        return _mm512_permutexvar_ps(pairs, load_part(p, count));
    }
    /// Pairs (a, b) -> (a cos - b sin, b cos + a sin).
    static V rotate_pairs(V x, V cos, V sin) {
        return _mm512_fmaddsub_ps(x, cos, mul(_mm512_permute_ps(x, 0xB1), sin));
    }

    /// 16 x 16: pairs, then quadruples within 128-bit lanes, then the lanes themselves.
    static void transpose(V* rows) {
        V a[16];
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += 4) {
            const V low01 = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            const V high01 = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            const V low23 = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]);
            const V high23 = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
            a[i] = _mm512_shuffle_ps(low01, low23, 0x44);
            a[i + 1] = _mm512_shuffle_ps(low01, low23, 0xEE);
            a[i + 2] = _mm512_shuffle_ps(high01, high23, 0x44);
            a[i + 3] = _mm512_shuffle_ps(high01, high23, 0xEE);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const V even02 = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
            const V odd13 = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD);
            const V even02b = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
            const V odd13b = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xDD);
            rows[i] = _mm512_shuffle_f32x4(even02, even02b, 0x88);
            rows[i + 4] = _mm512_shuffle_f32x4(odd13, odd13b, 0x88);
            rows[i + 8] = _mm512_shuffle_f32x4(even02, even02b, 0xDD);
            rows[i + 12] = _mm512_shuffle_f32x4(odd13, odd13b, 0xDD);
        }
    }
};

}  // namespace
}  // namespace aerogel
