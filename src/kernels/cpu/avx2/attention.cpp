// The vector operations that attention needs, in AVX2 with FMA. Blocks of 6 rows x 2 vectors: 12 sums,
// two operands and a broadcast of the 16 registers.
#include "kernels/cpu/avx2/attention.h"

#include <immintrin.h>

#include "kernels/cpu/attention_driver.h"

namespace aerogel {
namespace {

struct Avx2 {
    using V = __m256;
    using Rows = RowList<1, 2, 3, 4, 5, 6>;
    static constexpr std::int64_t kLanes = 8;
    static constexpr std::int64_t kRows = 6;

    static V zero() { return _mm256_setzero_ps(); }
    static V set1(float x) { return _mm256_set1_ps(x); }
    static V load(const float* p) { return _mm256_loadu_ps(p); }
    static void store(float* p, V x) { _mm256_storeu_ps(p, x); }
    static V add(V a, V b) { return _mm256_add_ps(a, b); }
    static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
    static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
    static V fmsub(V a, V b, V c) { return _mm256_fmsub_ps(a, b, c); }
    /// The second where either is NaN.
    static V larger(V a, V b) { return _mm256_max_ps(a, b); }
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

    /// 2^x for x < 127, within 2 ulp; 0 below 2^-126, NaN for NaN. 2^(x - round(x)) by a polynomial that is
    /// exact at 0; round(x) comes out of the low bits of x + 1.5 * 2^23.
    static V exp2(V x) {
        const V magic = set1(0x1.8p23F);
        const V clamped = _mm256_max_ps(set1(-127.0F), x);  // the second where x is NaN
        const V shifted = add(clamped, magic);
        const V r = _mm256_sub_ps(clamped, _mm256_sub_ps(shifted, magic));
        V p = set1(0x1.5bba14p-10F);
        p = fma(p, r, set1(0x1.3cea88p-7F));
        p = fma(p, r, set1(0x1.c6b752p-5F));
        p = fma(p, r, set1(0x1.ebf9bcp-3F));
        p = fma(p, r, set1(0x1.62e42ap-1F));
        p = fma(p, r, set1(1.0F));
        const __m256i exponent = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
        return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
    }

    static __m256i lanes_below(std::int64_t count) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
    }
    static V load_part(const float* p, std::int64_t count) {
        return count == kLanes ? load(p) : _mm256_maskload_ps(p, lanes_below(count));
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
    static void store_part(float* p, std::int64_t count, V x) {
        if (count == kLanes) {
            store(p, x);
        } else {
            _mm256_maskstore_ps(p, lanes_below(count), x);
        }
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

    /// 8 x 8: pairs, then quadruples within 128-bit lanes, then the lanes themselves.
    static void transpose(V* rows) {
        V a[8];
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            const V low01 = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            const V high01 = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
            const V low23 = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
            const V high23 = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
            a[i] = _mm256_shuffle_ps(low01, low23, 0x44);
            a[i + 1] = _mm256_shuffle_ps(low01, low23, 0xEE);
            a[i + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
            a[i + 3] = _mm256_shuffle_ps(high01, high23, 0xEE);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            rows[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
            rows[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
        }
    }
};

}  // namespace

namespace avx2 {

std::size_t attention_workspace(const AttentionProblem& problem) {
    return attend_workspace(problem, Avx2::kLanes);
}

void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    if (problem.dtype == DType::f32) {
        attend<Avx2, float>(problem, args);
    } else {
        attend<Avx2, Bf16Bits>(problem, args);
    }
}

}  // namespace avx2
}  // namespace aerogel
