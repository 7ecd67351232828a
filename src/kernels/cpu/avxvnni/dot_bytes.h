// The one instruction that AVX-VNNI has and AVX2 lacks. The tests also build this folder's kernels with
// AEROGEL_EMULATED_AVXVNNI, so that they are compared with the reference on machines without it.
// Everything is local to the including file.
#pragma once

#include <immintrin.h>

namespace aerogel {
namespace {

/// vpdpbusd: sum += four products per lane, bytes of x unsigned and of w signed; exact, sums wrap around.
inline __m256i dot_bytes(__m256i sum, __m256i x, __m256i w) {
#ifdef AEROGEL_EMULATED_AVXVNNI
    const __m256i even_x = _mm256_and_si256(x, _mm256_set1_epi16(0xFF));
    const __m256i even_w = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(even_x, even_w), odd));
#else
    // By hand: the compiler reorders the intrinsics of a block until the sums no longer fit the registers.
    __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
    return sum;
#endif
}

}  // namespace
}  // namespace aerogel
