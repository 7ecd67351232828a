// The one instruction that AVX-VNNI has and AVX2 lacks. Everything is local to the including file.
#pragma once

#include <immintrin.h>

namespace aerogel {
namespace {

/// vpdpbusd: sum += four products per lane, bytes of x unsigned and of w signed; exact, sums wrap around.
inline __m256i dot_bytes(__m256i sum, __m256i x, __m256i w) {
#ifdef __AVXVNNI__
    // By hand: the compiler reorders the intrinsics of a block until the sums no longer fit the registers.
    __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
    return sum;
#else  // in software, for the tests
    return _mm256_dpbusd_avx_epi32(sum, x, w);
#endif
}

}  // namespace
}  // namespace aerogel
