// Vectors and products of int8 attention in AVX-512 with VNNI; blocks of 12 rows x 2 vectors. Only for
// sources compiled for AVX-512; local to each of them.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/avx512/vector.h"

namespace aerogel {
namespace {

/// vpdpbusd: sum += four products per lane, bytes of x unsigned and of w signed; exact, sums wrap around.
inline __m512i dot_bytes(__m512i sum, __m512i x, __m512i w) {
#ifdef __AVX512VNNI__
    // By hand: the compiler reorders the intrinsics of a block until the sums no longer fit the registers.
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
#else  // in software, for the tests
    return _mm512_dpbusd_epi32(sum, x, w);
#endif
}

struct Avx512Bytes : Avx512 {
    using I = __m512i;
    static constexpr std::int64_t kRows = 12;
    static constexpr std::int64_t kWeightKeys = 16;
    static constexpr float kLargestWeight = kWideWeight;
    static constexpr bool kBiased = true;
    static constexpr bool kSigned = false;
    static constexpr std::int32_t kBias = 128;

    static I zero_integers() { return _mm512_setzero_si512(); }
    static I load_integers(const std::int32_t* p) { return _mm512_loadu_si512(p); }
    static void store_integers(std::int32_t* p, I x) { _mm512_storeu_si512(p, x); }
    static I broadcast(const std::int32_t* p) { return _mm512_set1_epi32(*p); }
    static I add_integers(I a, I b) { return _mm512_add_epi32(a, b); }
    static I mul_integers(I a, I b) { return _mm512_mullo_epi32(a, b); }
    struct Bytes {
        using Value = std::int8_t;
        static constexpr std::int64_t kDepth = 4;
        static constexpr std::int64_t kIntegers = 1;
        static constexpr int kRows = 12, kPanels = 2;
        static constexpr int kInRegisters = 2;
        static I row(const std::int32_t* x) { return broadcast(x); }
        static I dot(I sum, I x, I w) { return dot_bytes(sum, x, w); }
    };
    using Scores = Bytes;
    using Weights = Bytes;
    using Avx512::reduce_larger;
    /// Of four vectors, as four floats.
    static void reduce_larger(const V (&x)[4], float* to) {
        for (int i = 0; i < 4; ++i) to[i] = reduce_larger(x[i]);
    }
    static V to_float(I x) { return _mm512_cvtepi32_ps(x); }
    static I to_integers(V x) { return _mm512_cvtps_epi32(x); }
    template <int kBits>
    static I shift_left(I x) {
        return _mm512_slli_epi32(x, kBits);
    }
    template <int kBits>
    static I low_bits(I x) {
        return _mm512_and_si512(x, _mm512_set1_epi32((1 << kBits) - 1));
    }
    static void store_values(std::int8_t* p, I x) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
    }
    /// scalef() takes floor(x), so the polynomial is that of the rest, 0 to 1.
    static V weight(V x) {
        const V r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        V p = set1(kLargestWeight * 0x1.bb7cd4p-7F);
        p = fma(p, r, set1(kLargestWeight * 0x1.aa13f0p-5F));
        p = fma(p, r, set1(kLargestWeight * 0x1.ee798ap-3F));
        p = fma(p, r, set1(kLargestWeight * 0x1.62d166p-1F));
        p = fma(p, r, set1(kLargestWeight * 0x1.00002cp+0F));
        return _mm512_scalef_ps(p, x);
    }
    static void store_weights(std::int8_t* p, const I (&x)[1]) { store_values(p, x[0]); }
    static __mmask16 kept(const std::int32_t* lanes) { return _mm512_movepi32_mask(load_integers(lanes)); }
    /// x where the lane is kept, elsewhere -inf or 0.
    static V where_kept(const std::int32_t* lanes, V x) {
        return _mm512_mask_mov_ps(set1(-__builtin_inff()), kept(lanes), x);
    }
    static V kept_or_zero(const std::int32_t* lanes, V x) { return _mm512_maskz_mov_ps(kept(lanes), x); }
};

}  // namespace
}  // namespace aerogel
