// Four unsigned times signed bytes per step, for the register kernel of avx2/linear_tile.h.
// Everything is local to the including file.
#pragma once

#include "kernels/cpu/avx2/linear_tile.h"
#include "kernels/cpu/avxvnni/dot_bytes.h"

namespace aerogel {
namespace {

struct ByteSteps {
    static constexpr std::int64_t kIntegers = 1;

    static __m256i row(const std::int32_t* x) { return _mm256_set1_epi32(*x); }
    static __m256i dot(__m256i sum, __m256i x, const std::int32_t* w) {
        return dot_bytes(sum, x, load_lanes(w));
    }
};

}  // namespace
}  // namespace aerogel
