// Eight floats of AVX2 with the names that the shared loops of kernels/cpu use. Only for sources compiled
// for AVX2; local to each of them.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/bf16_bits.h"

namespace aerogel {
namespace {

struct Avx2 {
    using V = __m256;
    static constexpr std::int64_t kLanes = 8;

    static V zero() { return _mm256_setzero_ps(); }
    static V set1(float x) { return _mm256_set1_ps(x); }
    static V load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, V x) { _mm256_storeu_ps(p, x); }
    static V add(V a, V b) { return _mm256_add_ps(a, b); }
    static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
    static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
    static V div(V a, V b) { return _mm256_div_ps(a, b); }
    static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
    static V fmsub(V a, V b, V c) { return _mm256_fmsub_ps(a, b, c); }
    static V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
    /// What square = a * a lost by rounding.
    static V square_error(V a, V square) { return fmsub(a, a, square); }
    /// The second where either is NaN.
    static V larger(V a, V b) { return _mm256_max_ps(a, b); }
    static V smaller(V a, V b) { return _mm256_min_ps(a, b); }
    static V absolute(V x) { return _mm256_andnot_ps(set1(-0.0F), x); }
    /// 2^floor(log2|x|); 0 where x is 0 or denormal.
    static V power_below(V x) { return _mm256_and_ps(x, set1(__builtin_inff())); }
    /// a where x < 0, else b.
    static V where_negative(V x, V a, V b) {
        return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, zero(), _CMP_LT_OQ));
    }
    static float first(V x) { return _mm256_cvtss_f32(x); }
    static float reduce_add(V x) {
        __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        y = _mm_add_ps(y, _mm_movehl_ps(y, y));
        return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
    }
    static float reduce_larger(V x) {
        __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        y = _mm_max_ps(y, _mm_movehl_ps(y, y));
        return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
    }

    static __m256i lanes_below(std::int64_t count) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
    }
    /// The first `count` lanes; the others are zero.
    static V load_part(const float* p, std::int64_t count) {
        return count == kLanes ? load(p) : _mm256_maskload_ps(p, lanes_below(count));
    }
    static void store_part(float* p, std::int64_t count, V x) {
        if (count == kLanes) {
            store(p, x);
        } else {
            _mm256_maskstore_ps(p, lanes_below(count), x);
        }
    }

    static V load_part(const Bf16Bits* p, std::int64_t count) {
        alignas(16) Bf16Bits part[kLanes] = {};
        if (count != kLanes) {
            for (std::int64_t i = 0; i < count; ++i) part[i] = p[i];
            p = part;
        }
        const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
    }
    /// Rounds to nearest, ties to even; NaN becomes the quiet NaN 0x7fc0.
    static void store_part(Bf16Bits* p, std::int64_t count, V x) {
        const __m256i bits = _mm256_castps_si256(x);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
        const V nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
        const V result = _mm256_blendv_ps(_mm256_castsi256_ps(rounded),
                                          _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000)), nan);
        const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(result), 16);
        const __m128i packed =
            _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
        alignas(16) Bf16Bits part[kLanes];
        _mm_store_si128(reinterpret_cast<__m128i*>(part), packed);
        for (std::int64_t i = 0; i < count; ++i) p[i] = part[i];
    }

    /// 2^x for x < 127, within 2.1 ulp; 0 below 2^-126, NaN for NaN. 2^(x - round(x)) by a polynomial that is
    /// exact at 0; round(x) comes out of the low bits of x + 1.5 * 2^23.
    static V exp2(V x) {
        const V magic = set1(0x1.8p23F);
        const V clamped = _mm256_max_ps(set1(-127.0F), x);  // the second where x is NaN
        const V shifted = add(clamped, magic);
        const V r = sub(clamped, sub(shifted, magic));
        V p = set1(0x1.5bba14p-10F);
        p = fma(p, r, set1(0x1.3cea88p-7F));
        p = fma(p, r, set1(0x1.c6b752p-5F));
        p = fma(p, r, set1(0x1.ebf9bcp-3F));
        p = fma(p, r, set1(0x1.62e42ap-1F));
        p = fma(p, r, set1(1.0F));
        const __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
        return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
    }

    /// round(x) for |x| < 2^22; NaN for NaN.
    static V round(V x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    /// x * 2^n for an integral n <= 128, where n < -126 may give 0 and 128 infinity.
    static V scale_by_power(V x, V n) {
        const __m256i power = _mm256_cvtps_epi32(larger(set1(-127.0F), n));
        const __m256i exponent = _mm256_add_epi32(power, _mm256_set1_epi32(127));
        return mul(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
    }

    /// {p0, p0, p1, p1, ...} of `count` floats; the other lanes are zero.
    static V load_twice(const float* p, std::int64_t count) {
        const __m256i pairs = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
        return _mm256_permutevar8x32_ps(_mm256_maskload_ps(p, lanes_below(count)), pairs);
    }
    /// Pairs (a, b) -> (a cos - b sin, b cos + a sin).
    static V rotate_pairs(V x, V cos, V sin) {
        return _mm256_fmaddsub_ps(x, cos, mul(_mm256_permute_ps(x, 0xB1), sin));
    }
};

}  // namespace
}  // namespace aerogel
