// The exact product of signed bytes with AVX2. vpmaddubsw multiplies unsigned by signed bytes and adds pairs
// in int16, where it saturates. So x is given as |x| and a mask of its signs, and |x| is multiplied by w
// where x is not negative, by ~w = -w - 1 where it is (-w would not do: -128 has none). A pair is then -128 *
// 128 * 2 to 128 * 127 * 2, just what int16 holds. The sum of a row is too small by the |x| of its negative
// values, which split_signs() gives. Everything is local to the including file.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace aerogel {
namespace {

/// Four bytes of x in all lanes: sizes, and all bits set where negative.
struct SignedBytes {
    __m256i size;
    __m256i sign;
};

/// What split_signs() has written.
inline SignedBytes signed_bytes(const std::int32_t* x) {
    return {_mm256_set1_epi32(x[0]), _mm256_set1_epi32(x[1])};
}

/// sum += x * w without the excess. By hand: left to itself, the compiler loads w early and copies the sums
/// that no longer fit the registers.
inline __m256i dot_signed(__m256i sum, const SignedBytes& x, const std::int32_t* w) {
    __m256i products;
    __asm__ volatile("vpxor %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
                     : "+x"(sum), "=&x"(products)
                     : "m"(*reinterpret_cast<const __m256i*>(w)), "x"(x.size), "x"(x.sign),
                       "x"(_mm256_set1_epi16(1)));
    return sum;
}

/// Sixteen bytes to out[4][2]: sizes and signs of four bytes by turns. `excess` gets the sizes of negative
/// ones.
inline void split_signs(__m128i x, std::int32_t* out, __m128i& excess) {
    const __m128i size = _mm_abs_epi8(x), sign = _mm_cmpgt_epi8(_mm_setzero_si128(), x);
    auto* to = reinterpret_cast<__m128i*>(out);
    _mm_storeu_si128(to, _mm_unpacklo_epi32(size, sign));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi32(size, sign));
    excess = _mm_add_epi32(excess, _mm_sad_epu8(_mm_and_si128(size, sign), _mm_setzero_si128()));
}

inline std::int32_t excess_of(__m128i excess) {
    return _mm_cvtsi128_si32(_mm_add_epi32(excess, _mm_unpackhi_epi64(excess, excess)));
}

}  // namespace
}  // namespace aerogel
