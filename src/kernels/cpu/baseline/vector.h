// Four floats of SSE2, which every x86-64 has, with the names that the shared loops of kernels/cpu use.
// fma() rounds twice here: there is no fused instruction.
#pragma once

#include <emmintrin.h>

#include <cstdint>

namespace aerogel {
namespace {

struct Sse2 {
    using V = __m128;
    static constexpr std::int64_t kLanes = 4;

    static V zero() { return _mm_setzero_ps(); }
    static V set1(float x) { return _mm_set1_ps(x); }
    static V load(const float* p) { return _mm_loadu_ps(p); }
    static void store(float* p, V x) { _mm_storeu_ps(p, x); }
    static V add(V a, V b) { return _mm_add_ps(a, b); }
    static V sub(V a, V b) { return _mm_sub_ps(a, b); }
    static V mul(V a, V b) { return _mm_mul_ps(a, b); }
    static V div(V a, V b) { return _mm_div_ps(a, b); }
    static V fma(V a, V b, V c) { return add(mul(a, b), c); }
    static V fmsub(V a, V b, V c) { return sub(mul(a, b), c); }
    static V fnma(V a, V b, V c) { return sub(c, mul(a, b)); }
    /// What square = a * a lost by rounding, by Dekker's product of halves of 12 bits.
    static V square_error(V a, V square) {
        const V c = mul(a, set1(4097.0F));
        const V high = sub(c, sub(c, a));
        const V low = sub(a, high);
        const V both = mul(high, low);
        return add(add(sub(mul(high, high), square), add(both, both)), mul(low, low));
    }
    /// The second where either is NaN.
    static V larger(V a, V b) { return _mm_max_ps(a, b); }
    static V smaller(V a, V b) { return _mm_min_ps(a, b); }
    static V absolute(V x) { return _mm_andnot_ps(set1(-0.0F), x); }
    /// 2^floor(log2|x|); 0 where x is 0 or denormal.
    static V power_below(V x) { return _mm_and_ps(x, set1(__builtin_inff())); }
    /// a where x < 0, else b.
    static V where_negative(V x, V a, V b) {
        const V negative = _mm_cmplt_ps(x, zero());
        return _mm_or_ps(_mm_and_ps(negative, a), _mm_andnot_ps(negative, b));
    }
    static float first(V x) { return _mm_cvtss_f32(x); }
    static float reduce_add(V x) {
        x = add(x, _mm_movehl_ps(x, x));
        return first(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
    }
    static float reduce_larger(V x) {
        x = larger(x, _mm_movehl_ps(x, x));
        return first(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
    }

    /// The first `count` lanes; the others are zero.
    static V load_part(const float* p, std::int64_t count) {
        if (count == kLanes) return load(p);
        float part[kLanes] = {};
        for (std::int64_t i = 0; i < count; ++i) part[i] = p[i];
        return load(part);
    }
    static void store_part(float* p, std::int64_t count, V x) {
        if (count == kLanes) return store(p, x);
        float part[kLanes];
        store(part, x);
        for (std::int64_t i = 0; i < count; ++i) p[i] = part[i];
    }

    /// 2^x for x < 127, within 2.4 ulp; 0 below 2^-126, NaN for NaN. As in AVX2.
    static V exp2(V x) {
        const V magic = set1(0x1.8p23F);
        const V clamped = larger(set1(-127.0F), x);
        const V shifted = add(clamped, magic);
        const V r = sub(clamped, sub(shifted, magic));
        V p = set1(0x1.5bba14p-10F);
        p = fma(p, r, set1(0x1.3cea88p-7F));
        p = fma(p, r, set1(0x1.c6b752p-5F));
        p = fma(p, r, set1(0x1.ebf9bcp-3F));
        p = fma(p, r, set1(0x1.62e42ap-1F));
        p = fma(p, r, set1(1.0F));
        const __m128i exponent = _mm_add_epi32(_mm_castps_si128(shifted), _mm_set1_epi32(127));
        return mul(p, _mm_castsi128_ps(_mm_slli_epi32(exponent, 23)));
    }

    /// round(x) for |x| < 2^31; a large negative number for NaN.
    static V round(V x) { return _mm_cvtepi32_ps(_mm_cvtps_epi32(x)); }
    /// x * 2^n for an integral n <= 128, where n < -126 may give 0 and 128 infinity.
    static V scale_by_power(V x, V n) {
        const __m128i power = _mm_cvtps_epi32(larger(set1(-127.0F), n));
        return mul(x, _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(power, _mm_set1_epi32(127)), 23)));
    }

    /// {p0, p0, p1, p1} of `count` floats; the other lanes are zero.
    static V load_twice(const float* p, std::int64_t count) {
        const V part = load_part(p, count);
        return _mm_unpacklo_ps(part, part);
    }
    /// Pairs (a, b) -> (a cos - b sin, b cos + a sin).
    static V rotate_pairs(V x, V cos, V sin) {
        const V sign = _mm_setr_ps(-0.0F, 0.0F, -0.0F, 0.0F);
        const V swapped = _mm_shuffle_ps(x, x, 0xB1);
        return add(mul(x, cos), _mm_xor_ps(mul(swapped, sin), sign));
    }
};

}  // namespace
}  // namespace aerogel
