// Int8 attention in AVX2. Queries and keys are multiplied as signed bytes (signed_bytes.h), in blocks of 3
// rows x 4 vectors, as linear_w8a8.cpp does. Weights are 0..128, where vpmaddubsw adds pairs of -128 * 128 *
// 2 to 128 * 127 * 2, just what int16 holds; blocks of 6 x 2. Both are exact, -128 included.
#include "kernels/cpu/attention_limits.h"
#include "kernels/cpu/avx2/int8_lanes.h"
#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/avx2/signed_bytes.h"
#include "kernels/cpu/int8_attention_driver.h"
#include "kernels/cpu/int8_scales.h"

namespace aerogel {
namespace {

struct Avx2Integers : Int8Lanes<static_cast<int>(kNarrowWeight)> {
    static constexpr bool kSigned = true;
    static constexpr std::int32_t kBias = 0;

    struct Scores {
        using Value = std::int8_t;
        static constexpr std::int64_t kDepth = 4;
        static constexpr std::int64_t kIntegers = 2;
        static constexpr int kRows = 3, kPanels = 4;
        static constexpr int kInRegisters = 0;
        static SignedBytes row(const std::int32_t* x) { return signed_bytes(x); }
        static I dot(I sum, const SignedBytes& x, const std::int32_t* w) { return dot_signed(sum, x, w); }
    };
    /// The second panel is loaded for each row, so that a register is left for the ones, which would be
    /// loaded twice for each row. Sums are added in place by hand: left to itself, the compiler reorders the
    /// twelve of a block until they no longer fit the registers, and copies what it kept.
    struct Weights {
        using Value = std::uint8_t;
        static constexpr std::int64_t kDepth = 4;
        static constexpr std::int64_t kIntegers = 1;
        static constexpr int kRows = 6, kPanels = 2;
        static constexpr int kInRegisters = 1;
        static I row(const std::int32_t* x) { return broadcast(x); }
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
    /// Exponents are words here, of which a register holds twice as many as of floats: 11 bits of fraction,
    /// for a polynomial, and 5 of a whole number, for a table.
    static constexpr float kExponentUnit = 2048.0F;
    /// 128 * 2^x of 16 keys within 2^-11, for x in units, at most 0. In the order that packing leaves.
    static I powers(V x0, V x1) {
        const I units = _mm256_packs_epi32(to_integers(x0), to_integers(x1));
        const I x = _mm256_subs_epi16(units, _mm256_set1_epi16(2048));  // whole numbers are -16 to -1
        const I steps = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, -128, -1,  //
                                         0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, -128, -1);
        const I fraction = _mm256_slli_epi16(x, 5);
        const auto next = [&](I p, short coefficient) {
            return _mm256_add_epi16(_mm256_mulhi_epu16(fraction, p), _mm256_set1_epi16(coefficient));
        };
        const I power = next(next(next(_mm256_set1_epi16(1262), 3729), 11391), 16384);
        return _mm256_mulhrs_epi16(power, _mm256_shuffle_epi8(steps, _mm256_srli_epi16(x, 11)));
    }
    static I sum_of_words(I x) { return _mm256_madd_epi16(x, _mm256_set1_epi16(1)); }
    static I store_powers(std::uint8_t* p, const V (&x)[2]) {
        const I words = powers(x[0], x[1]);
        const I ordered = _mm256_permute4x64_epi64(words, 0xD8);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(p),
            _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
        return sum_of_words(words);
    }
    static I store_powers(std::uint8_t* p, const V (&x)[4]) {
        const I first = powers(x[0], x[1]), second = powers(x[2], x[3]);
        const I order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        store_integers(reinterpret_cast<std::int32_t*>(p),
                       _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
        return sum_of_words(_mm256_add_epi16(first, second));
    }
    /// Whole vectors of `values` for Scores::row(), and their excess.
    static std::int32_t split(const std::int8_t* values, std::int64_t count, std::int32_t* out) {
        __m128i excess = _mm_setzero_si128();
        for (std::int64_t i = 0; i < count; i += 16) {
            split_signs(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i)), out + i / 2, excess);
        }
        return excess_of(excess);
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
