// Codes of packed weights to floats with SSE2: what kernels/cpu/linear_unpack.h asks of a CPU level.
#pragma once

#include "kernels/cpu/baseline/vector.h"

namespace aerogel {
namespace {

struct Sse2Codes : Sse2 {
    using I = __m128i;

    static I load_codes(const std::byte* at) { return _mm_load_si128(reinterpret_cast<const I*>(at)); }
    static I load_table(const std::byte* at) { return load_codes(at); }
    static I low_nibbles(I x) { return _mm_and_si128(x, _mm_set1_epi8(0xF)); }
    static I high_nibbles(I x) { return low_nibbles(_mm_srli_epi16(x, 4)); }
    /// There is no shuffle of bytes: one by one.
    static I look_up(I table, I x) {
        alignas(16) std::int8_t values[16];
        alignas(16) std::uint8_t codes[16];
        _mm_store_si128(reinterpret_cast<I*>(values), table);
        _mm_store_si128(reinterpret_cast<I*>(codes), x);
        for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(values[code]);
        return _mm_load_si128(reinterpret_cast<const I*>(codes));
    }

    static I flip_signs(I x) { return _mm_xor_si128(x, _mm_set1_epi8(-128)); }
    /// The byte as the last one of 2^23 + byte.
    template <int kByte>
    static V byte_as_float(I x) {
        const I byte = _mm_and_si128(_mm_srli_epi32(x, 8 * kByte), _mm_set1_epi32(0xFF));
        return sub(_mm_castsi128_ps(_mm_or_si128(byte, _mm_set1_epi32(0x4B000000))), set1(0x1p23F + 128.0F));
    }
    template <int kDrop, bool kOdd>
    static I half(I x) {
        const I upper = kOdd ? x : _mm_slli_epi16(x, 8);
        const auto kept = static_cast<short>(kDrop == 0 ? 0xFF00 : 0xBF80);
        return _mm_and_si128(_mm_srai_epi16(upper, kDrop), _mm_set1_epi16(kept));
    }
    /// The exponent of a float16 in that of a float is too small by 112; infinities and NaNs have all bits
    /// set.
    template <int kPart>
    static V half_as_float(I x) {
        const I zero = _mm_setzero_si128();
        const I upper = kPart == 0 ? _mm_unpacklo_epi16(zero, x) : _mm_unpackhi_epi16(zero, x);
        const I sign = _mm_and_si128(upper, _mm_set1_epi32(static_cast<int>(0x80000000U)));
        const I bits = _mm_srli_epi32(_mm_xor_si128(upper, sign), 3);
        const V value = mul(_mm_castsi128_ps(bits), set1(0x1p112F));
        const I infinite = _mm_cmpgt_epi32(bits, _mm_set1_epi32(0x0F7FFFFF));
        const I exponent = _mm_and_si128(infinite, _mm_set1_epi32(0x7F800000));
        return _mm_castsi128_ps(_mm_or_si128(_mm_or_si128(_mm_castps_si128(value), exponent), sign));
    }
    static V powers(const std::byte* at) {
        alignas(16) std::uint32_t bits[4];
        for (int i = 0; i < 4; ++i) {
            const auto exponent = static_cast<std::uint32_t>(at[i]);
            bits[i] = exponent == 0 ? 0x00400000U : exponent == 255 ? 0x7FC00000U : exponent << 23;
        }
        return load(reinterpret_cast<const float*>(bits));
    }
};

}  // namespace
}  // namespace aerogel
