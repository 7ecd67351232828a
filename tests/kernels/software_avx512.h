// What the kernels of AVX-VNNI, AVX-512 and AVX-512 BF16 use of these, computed with AVX2: a vector is a pair
// of its registers. tests/CMakeLists.txt builds their sources once more with this file before them; what the
// instructions refuse ends the test. Integers and roundings are those of the instructions, to the bit, but
// that vdpbf16ps does not take denormal numbers for zeros. Everything is local to the including file.
#pragma once

// The compiler's <immintrin.h> without its own functions and types of these names, for GCC and clang.
#define _IMMINTRIN_H_INCLUDED
#define __IMMINTRIN_H
#include <smmintrin.h>

#include <avxintrin.h>

#include <avx2intrin.h>
#include <f16cintrin.h>
#include <fmaintrin.h>

#include <cstddef>
#include <cstdint>

namespace {

struct __m512 {
    __m256 low, high;
};
struct __m512i {
    __m256i low, high;
};
struct __m512bh {
    __m256i low, high;
};
using __mmask16 = std::uint16_t;
using __mmask32 = std::uint32_t;

namespace register_pairs {

inline void must(bool holds) {
    if (!holds) __builtin_trap();
}

inline const std::byte* whole_line(const void* at) {
    must(reinterpret_cast<std::uintptr_t>(at) % 64 == 0);
    return static_cast<const std::byte*>(at);
}
inline std::byte* whole_line(void* at) {
    must(reinterpret_cast<std::uintptr_t>(at) % 64 == 0);
    return static_cast<std::byte*>(at);
}

/// All bits of the lanes that the last eight bits of the mask name.
inline __m256i lanes(unsigned mask) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bits), bits);
}
inline __m256 select(unsigned mask, __m256 x, __m256 otherwise) {
    return _mm256_blendv_ps(otherwise, x, _mm256_castsi256_ps(lanes(mask)));
}
inline __m512 select(__mmask16 mask, __m512 x, __m512 otherwise) {
    return {select(mask, x.low, otherwise.low), select(mask >> 8U, x.high, otherwise.high)};
}

inline __mmask16 joined(int low, int high) {
    return static_cast<__mmask16>(low | high << 8);
}

/// The four 2-bit numbers of `order` in both lanes.
inline __m256i places(int order) {
    const int a = order & 3, b = order >> 2 & 3, c = order >> 4 & 3, d = order >> 6 & 3;
    return _mm256_setr_epi32(a, b, c, d, a, b, c, d);
}
inline __m256 shuffle(__m256 a, __m256 b, int order) {
    const __m256i from = places(order);
    return _mm256_blend_ps(_mm256_permutevar_ps(a, from), _mm256_permutevar_ps(b, from), 0xCC);
}

inline __m128 quarter(__m512 x, int which) {
    const __m256 half = (which & 2) == 0 ? x.low : x.high;
    return (which & 1) == 0 ? _mm256_castps256_ps128(half) : _mm256_extractf128_ps(half, 1);
}

/// Eight words of each, in order.
inline __m256i pack_words(__m256i low, __m256i high) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
}

inline __m256 compare(__m256 a, __m256 b, int how) {
    must(how == _CMP_LT_OQ || how == _CMP_NLT_UQ || how == _CMP_UNORD_Q);
    if (how == _CMP_LT_OQ) return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
    return how == _CMP_NLT_UQ ? _mm256_cmp_ps(a, b, _CMP_NLT_UQ) : _mm256_cmp_ps(a, b, _CMP_UNORD_Q);
}

/// x - floor(x), rounded down; 0 for infinities.
inline __m256 above_floor(__m256 x) {
    const __m256 whole = _mm256_floor_ps(x), rest = _mm256_sub_ps(x, whole);
    const __m256 rounded_up = _mm256_cmp_ps(_mm256_add_ps(rest, whole), x, _CMP_GT_OQ);
    const __m256 down = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(rest), _mm256_castps_si256(rounded_up)));  // -1 where it is true
    const __m256 infinity = _mm256_set1_ps(__builtin_inff());
    return _mm256_andnot_ps(_mm256_cmp_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0F), x), infinity, _CMP_EQ_OQ),
                            down);
}

/// x * 2^floor(n), rounded once. The powers of doubles reach from 0 to infinity for all floats.
inline __m128 scale(__m128 x, __m128 n) {
    const __m128 power = _mm_min_ps(_mm_max_ps(_mm_floor_ps(n), _mm_set1_ps(-1023.0F)), _mm_set1_ps(1024.0F));
    const __m256i biased = _mm256_cvtepi32_epi64(_mm_add_epi32(_mm_cvtps_epi32(power), _mm_set1_epi32(1023)));
    const __m256d factor = _mm256_castsi256_pd(_mm256_slli_epi64(biased, 52));
    const __m128 scaled = _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(x), factor));
    return _mm_blendv_ps(scaled, n, _mm_cmpunord_ps(n, n));
}
inline __m256 scale(__m256 x, __m256 n) {
    return _mm256_set_m128(scale(_mm256_extractf128_ps(x, 1), _mm256_extractf128_ps(n, 1)),
                           scale(_mm256_castps256_ps128(x), _mm256_castps256_ps128(n)));
}

/// To nearest even; denormal numbers become zeros, NaNs quiet. In the upper halves of the lanes.
inline __m256i bfloat16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i tiny =
        _mm256_cmpeq_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7F800000)), _mm256_setzero_si256());
    const __m256 known = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet),
                                          _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_castps_si256(
        _mm256_blendv_ps(known, _mm256_and_ps(x, _mm256_set1_ps(-0.0F)), _mm256_castsi256_ps(tiny)));
}
inline __m256i bfloat16_words(__m512 x) {
    return pack_words(_mm256_srli_epi32(bfloat16(x.low), 16), _mm256_srli_epi32(bfloat16(x.high), 16));
}

/// The second numbers of the pairs come first.
inline __m256 dot_pairs(__m256 sum, __m256i a, __m256i b) {
    const __m256i second = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a, second)),
                          _mm256_castsi256_ps(_mm256_and_si256(b, second)), sum);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                           _mm256_castsi256_ps(_mm256_slli_epi32(b, 16)), sum);
}

}  // namespace register_pairs

// --- the same instruction on both halves -------------------------------------------------------------------

#define SOFTWARE_UNARY(R, V, name, half)    \
    inline R name(V x) {                    \
        return {half(x.low), half(x.high)}; \
    }
#define SOFTWARE_BINARY(V, name, half)                     \
    inline V name(V a, V b) {                              \
        return {half(a.low, b.low), half(a.high, b.high)}; \
    }
#define SOFTWARE_TERNARY(V, name, half)                                   \
    inline V name(V a, V b, V c) {                                        \
        return {half(a.low, b.low, c.low), half(a.high, b.high, c.high)}; \
    }
#define SOFTWARE_SHIFT(name, half)                      \
    inline __m512i name(__m512i x, int bits) {          \
        return {half(x.low, bits), half(x.high, bits)}; \
    }
#define SOFTWARE_FILL(V, name, T, half) \
    inline V name(T x) {                \
        return {half(x), half(x)};      \
    }

SOFTWARE_BINARY(__m512, _mm512_add_ps, _mm256_add_ps)
SOFTWARE_BINARY(__m512, _mm512_sub_ps, _mm256_sub_ps)
SOFTWARE_BINARY(__m512, _mm512_mul_ps, _mm256_mul_ps)
SOFTWARE_BINARY(__m512, _mm512_div_ps, _mm256_div_ps)
SOFTWARE_BINARY(__m512, _mm512_max_ps, _mm256_max_ps)
SOFTWARE_BINARY(__m512, _mm512_min_ps, _mm256_min_ps)
SOFTWARE_BINARY(__m512, _mm512_and_ps, _mm256_and_ps)
SOFTWARE_BINARY(__m512, _mm512_unpacklo_ps, _mm256_unpacklo_ps)
SOFTWARE_BINARY(__m512, _mm512_unpackhi_ps, _mm256_unpackhi_ps)
SOFTWARE_TERNARY(__m512, _mm512_fmadd_ps, _mm256_fmadd_ps)
SOFTWARE_TERNARY(__m512, _mm512_fmsub_ps, _mm256_fmsub_ps)
SOFTWARE_TERNARY(__m512, _mm512_fnmadd_ps, _mm256_fnmadd_ps)
SOFTWARE_TERNARY(__m512, _mm512_fmaddsub_ps, _mm256_fmaddsub_ps)
SOFTWARE_BINARY(__m512i, _mm512_add_epi32, _mm256_add_epi32)
SOFTWARE_BINARY(__m512i, _mm512_sub_epi32, _mm256_sub_epi32)
SOFTWARE_BINARY(__m512i, _mm512_mullo_epi32, _mm256_mullo_epi32)
SOFTWARE_BINARY(__m512i, _mm512_max_epi32, _mm256_max_epi32)
SOFTWARE_BINARY(__m512i, _mm512_min_epi32, _mm256_min_epi32)
SOFTWARE_BINARY(__m512i, _mm512_and_si512, _mm256_and_si256)
SOFTWARE_BINARY(__m512i, _mm512_or_si512, _mm256_or_si256)
SOFTWARE_BINARY(__m512i, _mm512_xor_si512, _mm256_xor_si256)
SOFTWARE_BINARY(__m512i, _mm512_shuffle_epi8, _mm256_shuffle_epi8)
SOFTWARE_SHIFT(_mm512_slli_epi16, _mm256_slli_epi16)
SOFTWARE_SHIFT(_mm512_slli_epi32, _mm256_slli_epi32)
SOFTWARE_SHIFT(_mm512_srli_epi16, _mm256_srli_epi16)
SOFTWARE_SHIFT(_mm512_srli_epi32, _mm256_srli_epi32)
SOFTWARE_SHIFT(_mm512_srai_epi16, _mm256_srai_epi16)
SOFTWARE_UNARY(__m512, __m512i, _mm512_cvtepi32_ps, _mm256_cvtepi32_ps)
SOFTWARE_UNARY(__m512i, __m512, _mm512_cvtps_epi32, _mm256_cvtps_epi32)
SOFTWARE_UNARY(__m512, __m512i, _mm512_castsi512_ps, _mm256_castsi256_ps)
SOFTWARE_UNARY(__m512i, __m512, _mm512_castps_si512, _mm256_castps_si256)
SOFTWARE_FILL(__m512, _mm512_set1_ps, float, _mm256_set1_ps)
SOFTWARE_FILL(__m512i, _mm512_set1_epi32, int, _mm256_set1_epi32)
SOFTWARE_FILL(__m512i, _mm512_set1_epi16, short, _mm256_set1_epi16)
SOFTWARE_FILL(__m512i, _mm512_set1_epi8, char, _mm256_set1_epi8)
SOFTWARE_FILL(__m512i, _mm512_broadcast_i32x4, __m128i, _mm256_broadcastsi128_si256)

inline __m512 _mm512_setzero_ps() {
    return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline __m512i _mm512_setzero_si512() {
    return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
inline __m512 _mm512_abs_ps(__m512 x) {
    return _mm512_and_ps(x, _mm512_castsi512_ps(_mm512_set1_epi32(0x7FFFFFFF)));
}
inline __m512i _mm512_setr4_epi32(int a, int b, int c, int d) {
    return _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d));
}

// --- memory ------------------------------------------------------------------------------------------------

inline __m512 _mm512_loadu_ps(const void* at) {
    const auto* p = static_cast<const float*>(at);
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline __m512i _mm512_loadu_si512(const void* at) {
    const auto* p = static_cast<const __m256i*>(at);
    return {_mm256_loadu_si256(p), _mm256_loadu_si256(p + 1)};
}
inline void _mm512_storeu_ps(void* at, __m512 x) {
    auto* p = static_cast<float*>(at);
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
inline void _mm512_storeu_si512(void* at, __m512i x) {
    auto* p = static_cast<__m256i*>(at);
    _mm256_storeu_si256(p, x.low);
    _mm256_storeu_si256(p + 1, x.high);
}
template <typename... Lane>
__m512i _mm512_setr_epi32(Lane... lanes) {
    static_assert(sizeof...(lanes) == 16);
    const int numbers[] = {lanes...};
    return _mm512_loadu_si512(numbers);
}
inline __m512 _mm512_load_ps(const void* at) {
    return _mm512_loadu_ps(register_pairs::whole_line(at));
}
inline __m512i _mm512_load_si512(const void* at) {
    return _mm512_loadu_si512(register_pairs::whole_line(at));
}
inline void _mm512_store_ps(void* at, __m512 x) {
    _mm512_storeu_ps(register_pairs::whole_line(at), x);
}
inline void _mm512_store_si512(void* at, __m512i x) {
    _mm512_storeu_si512(register_pairs::whole_line(at), x);
}

// No byte outside of the mask is touched.
inline __m512i _mm512_maskz_loadu_epi32(__mmask16 mask, const void* at) {
    const auto* p = static_cast<const int*>(at);
    return {_mm256_maskload_epi32(p, register_pairs::lanes(mask)),
            _mm256_maskload_epi32(p + 8, register_pairs::lanes(mask >> 8U))};
}
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const void* at) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi32(mask, at));
}
inline void _mm512_mask_storeu_ps(void* at, __mmask16 mask, __m512 x) {
    auto* p = static_cast<float*>(at);
    _mm256_maskstore_ps(p, register_pairs::lanes(mask), x.low);
    _mm256_maskstore_ps(p + 8, register_pairs::lanes(mask >> 8U), x.high);
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const void* at) {
    __m256i x = _mm256_setzero_si256();
    for (std::size_t i = 0; i < 32; i += 2, mask = static_cast<__mmask16>(mask >> 1))
        if ((mask & 1) != 0)
            __builtin_memcpy(reinterpret_cast<std::byte*>(&x) + i, static_cast<const std::byte*>(at) + i, 2);
    return x;
}
inline __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void* at) {
    return {
        _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), at),
        _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask >> 16), static_cast<const std::byte*>(at) + 32)};
}
inline void _mm256_mask_storeu_epi16(void* at, __mmask16 mask, __m256i x) {
    for (std::size_t i = 0; i < 32; i += 2, mask = static_cast<__mmask16>(mask >> 1))
        if ((mask & 1) != 0)
            __builtin_memcpy(static_cast<std::byte*>(at) + i, reinterpret_cast<std::byte*>(&x) + i, 2);
}

// --- masks -------------------------------------------------------------------------------------------------

inline __m512 _mm512_mask_mov_ps(__m512 otherwise, __mmask16 mask, __m512 x) {
    return register_pairs::select(mask, x, otherwise);
}
inline __m512 _mm512_maskz_mov_ps(__mmask16 mask, __m512 x) {
    return register_pairs::select(mask, x, _mm512_setzero_ps());
}
inline __m512i _mm512_mask_mov_epi32(__m512i otherwise, __mmask16 mask, __m512i x) {
    return _mm512_castps_si512(
        register_pairs::select(mask, _mm512_castsi512_ps(x), _mm512_castsi512_ps(otherwise)));
}
inline __m512i _mm512_mask_or_epi32(__m512i otherwise, __mmask16 mask, __m512i a, __m512i b) {
    return _mm512_mask_mov_epi32(otherwise, mask, _mm512_or_si512(a, b));
}
inline __m512 _mm512_mask_sub_ps(__m512 otherwise, __mmask16 mask, __m512 a, __m512 b) {
    return register_pairs::select(mask, _mm512_sub_ps(a, b), otherwise);
}
inline __m512 _mm512_maskz_mul_ps(__mmask16 mask, __m512 a, __m512 b) {
    return _mm512_maskz_mov_ps(mask, _mm512_mul_ps(a, b));
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
    return register_pairs::joined(_mm256_movemask_ps(register_pairs::compare(a.low, b.low, how)),
                                  _mm256_movemask_ps(register_pairs::compare(a.high, b.high, how)));
}
inline __mmask16 _mm512_movepi32_mask(__m512i x) {
    return register_pairs::joined(_mm256_movemask_ps(_mm256_castsi256_ps(x.low)),
                                  _mm256_movemask_ps(_mm256_castsi256_ps(x.high)));
}
inline __mmask16 _mm512_cmpeq_epi32_mask(__m512i a, __m512i b) {
    return _mm512_movepi32_mask({_mm256_cmpeq_epi32(a.low, b.low), _mm256_cmpeq_epi32(a.high, b.high)});
}

// --- lanes -------------------------------------------------------------------------------------------------

inline float _mm512_cvtss_f32(__m512 x) {
    return _mm256_cvtss_f32(x.low);
}
inline __m256i _mm512_extracti64x4_epi64(__m512i x, int part) {
    return part == 0 ? x.low : x.high;
}
inline __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int order) {
    return {register_pairs::shuffle(a.low, b.low, order), register_pairs::shuffle(a.high, b.high, order)};
}
inline __m512 _mm512_permute_ps(__m512 x, int order) {
    return _mm512_shuffle_ps(x, x, order);
}
inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int order) {
    const auto from = [order](__m512 x, int first) {
        return _mm256_set_m128(register_pairs::quarter(x, order >> (first + 2)),
                               register_pairs::quarter(x, order >> first));
    };
    return {from(a, 0), from(b, 4)};
}
inline __m512 _mm512_permutexvar_ps(__m512i from, __m512 x) {
    const auto half = [&x](__m256i places) {
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(x.low, places),
                                _mm256_permutevar8x32_ps(x.high, places),
                                _mm256_castsi256_ps(_mm256_slli_epi32(places, 28)));
    };
    return {half(from.low), half(from.high)};
}
inline int _mm512_reduce_max_epi32(__m512i x) {
    const __m256i eight = _mm256_max_epi32(x.low, x.high);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xB1)));
}

// --- other widths ------------------------------------------------------------------------------------------

inline __m512i _mm512_cvtepu8_epi32(__m128i x) {
    return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
inline __m512i _mm512_cvtepu16_epi32(__m256i x) {
    return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)),
            _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1))};
}
inline __m512 _mm512_cvtph_ps(__m256i x) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
}
inline __m256i _mm512_cvtps_ph(__m512 x, int rounding) {
    register_pairs::must(rounding == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return _mm256_set_m128i(_mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256i _mm512_cvtepi32_epi16(__m512i x) {
    const __m256i word = _mm256_set1_epi32(0xFFFF);
    return register_pairs::pack_words(_mm256_and_si256(x.low, word), _mm256_and_si256(x.high, word));
}
inline __m128i _mm512_cvtepi32_epi8(__m512i x) {
    const __m256i words = _mm512_cvtepi32_epi16(_mm512_and_si512(x, _mm512_set1_epi32(0xFF)));
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
inline __m128i _mm512_cvtsepi32_epi8(__m512i x) {
    const __m512i top = _mm512_set1_epi32(127), bottom = _mm512_set1_epi32(-128);
    return _mm512_cvtepi32_epi8(_mm512_max_epi32(_mm512_min_epi32(x, top), bottom));
}

// --- what AVX2 has nothing like ----------------------------------------------------------------------------

inline __m512 _mm512_reduce_ps(__m512 x, int how) {
    register_pairs::must(how == (_MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
    return {register_pairs::above_floor(x.low), register_pairs::above_floor(x.high)};
}
inline __m512 _mm512_roundscale_ps(__m512 x, int how) {
    register_pairs::must(how == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return {_mm256_round_ps(x.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(x.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline __m512 _mm512_scalef_ps(__m512 x, __m512 n) {
    return {register_pairs::scale(x.low, n.low), register_pairs::scale(x.high, n.high)};
}
inline __m512 _mm512_maskz_scalef_ps(__mmask16 mask, __m512 x, __m512 n) {
    return _mm512_maskz_mov_ps(mask, _mm512_scalef_ps(x, n));
}
inline __m256i _mm256_dpbusd_avx_epi32(__m256i sum, __m256i x, __m256i w) {
    const __m256i even_x = _mm256_and_si256(x, _mm256_set1_epi16(0xFF));
    const __m256i even_w = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even_x, even_w), odd));
}
SOFTWARE_TERNARY(__m512i, _mm512_dpbusd_epi32, _mm256_dpbusd_avx_epi32)
inline __m512bh _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
    return {register_pairs::bfloat16_words(low), register_pairs::bfloat16_words(high)};
}
inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
    return {register_pairs::dot_pairs(sum.low, a.low, b.low),
            register_pairs::dot_pairs(sum.high, a.high, b.high)};
}

/// As that of kernels/cpu/peak_loop.h, for a pair.
inline void hold(__m512& x) {
    __asm__ volatile("" : "+x"(x.low), "+x"(x.high));
}
inline void hold(__m512i& x) {
    __asm__ volatile("" : "+x"(x.low), "+x"(x.high));
}

}  // namespace
