// Int8 attention in AVX2. vpmaddubsw would saturate, so both sides of both products are widened to int16 and
// vpmaddwd sums pairs of products in int32: exact, -128 included. Blocks of 6 rows x 2 vectors.
#include "kernels/cpu/avx2/quantized_attention.h"

#include "kernels/cpu/avx2/vector.h"
#include "kernels/cpu/quantized_attention_driver.h"

namespace aerogel {
namespace {

struct Avx2Words : Avx2 {
    using I = __m256i;
    using Value = std::int16_t;
    static constexpr std::int64_t kDepth = 2;
    static constexpr std::int64_t kRows = 6;
    static constexpr bool kBiased = false;  ///< words hold a value minus its offset
    static constexpr std::int32_t kBias = 0;

    static I zero_integers() { return _mm256_setzero_si256(); }
    static I load_integers(const std::int32_t* p) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    }
    static void store_integers(std::int32_t* p, I x) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
    }
    static I broadcast(const std::int32_t* p) { return _mm256_set1_epi32(*p); }
    static I add_integers(I a, I b) { return _mm256_add_epi32(a, b); }
    /// The sum is added in place by hand: left to itself, the compiler reorders the twelve of a block until
    /// they no longer fit the registers, and copies what it kept.
    static I dot(I sum, I x, I w) {
        const I product = _mm256_madd_epi16(x, w);
        __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
        return sum;
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
    static void store_values(Value* p, I x) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
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

namespace avx2 {

std::size_t quantized_attention_workspace(const AttentionProblem& problem) {
    return attend_quantized_workspace<Avx2Words>(problem);
}

void quantized_attention(const AttentionProblem& problem, const QuantizedAttentionArgs& args) noexcept {
    if (problem.dtype == DType::f32) {
        attend_quantized<Avx2Words, float>(problem, args);
    } else {
        attend_quantized<Avx2Words, Bf16Bits>(problem, args);
    }
}

}  // namespace avx2
}  // namespace aerogel
