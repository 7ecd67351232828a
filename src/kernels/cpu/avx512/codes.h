// Codes of packed weights to floats with AVX-512: what kernels/cpu/linear_unpack.h asks of a CPU level.
#pragma once

#include "kernels/cpu/avx512/vector.h"

namespace aerogel {
namespace {

struct Avx512Codes : Avx512 {
    using I = __m512i;

    static I load_codes(const std::byte* at) { return _mm512_load_si512(at); }
    static I load_table(const std::byte* at) {
        return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
    }
    static I low_nibbles(I x) { return _mm512_and_si512(x, _mm512_set1_epi8(0xF)); }
    static I high_nibbles(I x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
    static I look_up(I table, I x) { return _mm512_shuffle_epi8(table, x); }

    static I flip_signs(I x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); }
    /// The byte as the last one of 2^23 + byte.
    template <int kByte>
    static V byte_as_float(I x) {
        constexpr auto kPlace = static_cast<int>(0x80808000U + kByte);  // that byte, and three zeros
        const I places = _mm512_setr4_epi32(kPlace, kPlace + 4, kPlace + 8, kPlace + 12);
        const I bits = _mm512_or_si512(_mm512_shuffle_epi8(x, places), _mm512_set1_epi32(0x4B000000));
        return sub(_mm512_castsi512_ps(bits), set1(0x1p23F + 128.0F));
    }
    template <int kDrop, bool kOdd>
    static I half(I x) {
        const I upper = kOdd ? x : _mm512_slli_epi16(x, 8);
        const auto kept = static_cast<short>(kDrop == 0 ? 0xFF00 : 0xBF80);
        return _mm512_and_si512(_mm512_srai_epi16(upper, kDrop), _mm512_set1_epi16(kept));
    }
    template <int kPart>
    static V half_as_float(I x) {
        return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, kPart));
    }
    static V powers(const std::byte* at) {
        const I exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
        const I normal = _mm512_max_epi32(_mm512_slli_epi32(exponents, 23), _mm512_set1_epi32(0x00400000));
        const __mmask16 nan = _mm512_cmpeq_epi32_mask(exponents, _mm512_set1_epi32(255));
        return _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, nan, _mm512_set1_epi32(0x7FC00000)));
    }
};

}  // namespace
}  // namespace aerogel
