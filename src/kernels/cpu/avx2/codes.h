// Codes of packed weights to floats with AVX2: what kernels/cpu/linear_unpack.h asks of a CPU level.
#pragma once

#include <cstddef>

#include "kernels/cpu/avx2/vector.h"

namespace aerogel {
namespace {

struct Avx2Codes : Avx2 {
    using I = __m256i;

    static I load_codes(const std::byte* at) { return _mm256_load_si256(reinterpret_cast<const I*>(at)); }
    static I load_table(const std::byte* at) {
        return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(at)));
    }
    static I low_nibbles(I x) { return _mm256_and_si256(x, _mm256_set1_epi8(0xF)); }
    static I high_nibbles(I x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }
    static I look_up(I table, I x) { return _mm256_shuffle_epi8(table, x); }

    static I flip_signs(I x) { return _mm256_xor_si256(x, _mm256_set1_epi8(-128)); }
    /// The byte as the last one of 2^23 + byte; the shuffle runs beside the multiplications.
    template <int kByte>
    static V byte_as_float(I x) {
        constexpr auto kPlace = static_cast<int>(0x80808000U + kByte);  // that byte, and three zeros
        const I places = _mm256_setr_epi32(kPlace, kPlace + 4, kPlace + 8, kPlace + 12, kPlace, kPlace + 4,
                                           kPlace + 8, kPlace + 12);
        const I bits = _mm256_or_si256(_mm256_shuffle_epi8(x, places), _mm256_set1_epi32(0x4B000000));
        return sub(_mm256_castsi256_ps(bits), set1(0x1p23F + 128.0F));
    }
    template <int kDrop, bool kOdd>
    static I half(I x) {
        const I upper = kOdd ? x : _mm256_slli_epi16(x, 8);
        const auto kept = static_cast<short>(kDrop == 0 ? 0xFF00 : 0xBF80);
        return _mm256_and_si256(_mm256_srai_epi16(upper, kDrop), _mm256_set1_epi16(kept));
    }
    template <int kPart>
    static V half_as_float(I x) {
        return _mm256_cvtph_ps(_mm256_extracti128_si256(x, kPart));
    }
    static V powers(const std::byte* at) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
        const I exponents = _mm256_cvtepu8_epi32(bytes);
        const I normal = _mm256_max_epi32(_mm256_slli_epi32(exponents, 23), _mm256_set1_epi32(0x00400000));
        const I nan = _mm256_cmpeq_epi32(exponents, _mm256_set1_epi32(255));
        return _mm256_castsi256_ps(_mm256_or_si256(normal, nan));
    }
};

}  // namespace
}  // namespace aerogel
