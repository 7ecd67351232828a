// What int8 attention with 256-bit registers needs besides its two products (int8_attention_tiles.h).
// Everything is local to the including file.
#pragma once

#include "kernels/attention.h"
#include "kernels/cpu/avx2/vector.h"

namespace aerogel {
namespace {

/// kLargest is the integer of the largest softmax weight.
template <int kLargest>
struct Int8Lanes : Avx2 {
    using I = __m256i;
    static constexpr std::int64_t kRows = 6;
    static constexpr float kLargestWeight = kLargest;
    static constexpr bool kBiased = true;
    static constexpr std::int64_t kWeightKeys = 32;

    static I zero_integers() { return _mm256_setzero_si256(); }
    static I load_integers(const std::int32_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static void store_integers(std::int32_t* p, I x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
    }
    static I broadcast(const std::int32_t* p) { return _mm256_set1_epi32(*p); }
    static I add_integers(I a, I b) { return _mm256_add_epi32(a, b); }
    static I mul_integers(I a, I b) { return _mm256_mullo_epi32(a, b); }
    using Avx2::reduce_larger;
    /// Of four vectors, as four floats.
    static void reduce_larger(const V (&x)[4], float* to) {
        const V pairs01 = larger(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
        const V pairs23 = larger(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
        const V all =
            larger(_mm256_shuffle_ps(pairs01, pairs23, 0x44), _mm256_shuffle_ps(pairs01, pairs23, 0xEE));
        _mm_storeu_ps(to, _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
    }
    static V to_float(I x) { return _mm256_cvtepi32_ps(x); }
    static I to_integers(V x) { return _mm256_cvtps_epi32(x); }
    template <int kBits>
    static I shift_left(I x) {
        return _mm256_slli_epi32(x, kBits);
    }
    template <int kBits>
    static I low_bits(I x) {
        return _mm256_and_si256(x, _mm256_set1_epi32((1 << kBits) - 1));
    }
    /// The low bytes.
    static void store_values(std::int8_t* p, I x) {
        const I low = _mm256_and_si256(x, _mm256_set1_epi32(0xFF));
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
    }
    /// As Avx2::exp2(), with a shorter polynomial of x - round(x).
    static V weight(V x) {
        const V magic = set1(0x1.8p23F + 127.0F);
        const V clamped = _mm256_max_ps(set1(-127.0F), x);
        const V shifted = add(clamped, magic);
        const V r = sub(clamped, sub(shifted, magic));
        V p = set1(kLargestWeight * 0x1.3997d6p-7F);
        p = fma(p, r, set1(kLargestWeight * 0x1.ca1440p-5F));
        p = fma(p, r, set1(kLargestWeight * 0x1.ec06dap-3F));
        p = fma(p, r, set1(kLargestWeight * 0x1.62e0dcp-1F));
        p = fma(p, r, set1(kLargestWeight * 0x1.ffffe8p-1F));
        return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
    }
    static void store_weights(std::uint8_t* p, const I (&x)[2]) {
        const I words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x[0], x[1]), 0xD8);
        const __m128i bytes =
            _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    }
    static void store_weights(std::uint8_t* p, const I (&x)[4]) {
        const I bytes = _mm256_packus_epi16(_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3]));
        const I order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(reinterpret_cast<I*>(p), _mm256_permutevar8x32_epi32(bytes, order));
    }
    /// x where the lane is kept, elsewhere -inf or 0.
    static V where_kept(const std::int32_t* lanes, V x) {
        return _mm256_blendv_ps(set1(-__builtin_inff()), x, _mm256_castsi256_ps(load_integers(lanes)));
    }
    static V kept_or_zero(const std::int32_t* lanes, V x) {
        return _mm256_and_ps(x, _mm256_castsi256_ps(load_integers(lanes)));
    }
};

}  // namespace
}  // namespace aerogel
