// Int8 attention in AVX2, blocks of 6 rows x 2 vectors. vpmaddubsw, which multiplies unsigned by signed bytes
// and adds pairs in int16, would saturate at 255 * 127 * 2. So queries and keys are widened to int16 and
// vpmaddwd sums pairs of products in int32; weights are 0..128, where a pair is -128 * 128 * 2 to
// 128 * 127 * 2, just what int16 holds. Both are exact, -128 included.
#include "kernels/cpu/avx2/kernels.h"

#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/avx2/vector.h"
#include "kernels/cpu/int8_attention_driver.h"
#include "kernels/cpu/int8_scales.h"

namespace aerogel {
namespace {

struct Avx2Integers : Avx2 {
    using I = __m256i;
    static constexpr std::int64_t kRows = 6;
    static constexpr float kLargestWeight = kNarrowWeight;
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
    /// Sums are added in place by hand: left to itself, the compiler reorders the twelve of a block until
    /// they no longer fit the registers, and copies what it kept.
    struct Scores {
        using Value = std::int16_t;
        static constexpr std::int64_t kDepth = 2;
        static constexpr int kInRegisters = 2;
        static I dot(I sum, I x, I w) {
            const I product = _mm256_madd_epi16(x, w);
            __asm__ volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
            return sum;
        }
    };
    /// The second panel is loaded for each row, so that a register is left for the ones, which would be
    /// loaded twice for each row.
    struct Weights {
        using Value = std::uint8_t;
        static constexpr std::int64_t kDepth = 4;
        static constexpr int kInRegisters = 1;
        static I add(I sum, I product) {
            const I ones = _mm256_set1_epi16(1);
            __asm__ volatile("vpmaddwd %2, %1, %1\n\tvpaddd %1, %0, %0"
                             : "+x"(sum), "+x"(product)
                             : "x"(ones));
            return sum;
        }
        static I dot(I sum, I x, I w) { return add(sum, _mm256_maddubs_epi16(x, w)); }
        static I dot(I sum, I x, const std::int32_t* w) {
            I product;
            __asm__ volatile("vpmaddubsw %1, %2, %0"
                             : "=x"(product)
                             : "m"(*reinterpret_cast<const __m256i*>(w)), "x"(x));
            return add(sum, product);
        }
    };
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
    static void store_values(std::int16_t* p, I x) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
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
    /// x where the lane is kept, elsewhere -inf or 0.
    static V where_kept(const std::int32_t* lanes, V x) {
        return _mm256_blendv_ps(set1(-__builtin_inff()), x, _mm256_castsi256_ps(load_integers(lanes)));
    }
    static V kept_or_zero(const std::int32_t* lanes, V x) {
        return _mm256_and_ps(x, _mm256_castsi256_ps(load_integers(lanes)));
    }
};

}  // namespace

constexpr AttentionKernel avx2::kInt8Attention = {.name = "cpu.avx2.int8_attention",
                                                  .formats = kInt8Formats,
                                                  .why_not = takes_up_to_256,
                                                  .workspace_bytes = attend_quantized_workspace<Avx2Integers>,
                                                  .run = attend_quantized<Avx2Integers>,
                                                  .find_scales = find_scales,
                                                  .largest_weight = kNarrowWeight};

}  // namespace aerogel
