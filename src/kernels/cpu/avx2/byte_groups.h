// What linear_byte_groups.h asks of 256-bit registers besides the register kernel.
// Everything is local to the including file.
#pragma once

#include "kernels/cpu/avx2/codes.h"
#include "kernels/cpu/avx2/linear_quantize.h"
#include "kernels/cpu/linear_byte_groups.h"

namespace aerogel {
namespace {

struct ByteGroups : Avx2Codes, Avx2Floats {
    static void quantize_row(const LinearProblem& problem, const LinearArgs& args, const QuantizedRows& rows,
                             std::int64_t i, ByteOrder order) {
        quantize_bytes<Biased>(problem, args, rows, i, order);
    }
    static void rotate_row(const LinearProblem& problem, const LinearArgs& args, std::int64_t i, float* out) {
        rotated_row(problem, args, i, out);
    }

    static I zero_integers() { return _mm256_setzero_si256(); }
    static I load_integers(const std::int32_t* at) { return load_lanes(at); }
    static void store_integers(std::int32_t* at, I x) { store_lanes(at, x); }
    static I add_integers(I a, I b) { return _mm256_add_epi32(a, b); }
    static V to_float(I x) { return _mm256_cvtepi32_ps(x); }
    static I add_bytes(I sum, I w) {
        const I pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), w);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static I bias_of(I sum) {
        return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(sum, Biased::kBiasBits));
    }
};

}  // namespace
}  // namespace aerogel
