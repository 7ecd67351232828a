// The vector operations that attention needs, in AVX-512. Blocks of 12 rows x 2 vectors: 24 sums, two
// operands and the broadcasts fill the 32 registers.
#include "kernels/cpu/avx512/attention.h"

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/avx512/vector.h"

namespace aerogel {
namespace {

struct Avx512Attention : Avx512 {
    using Rows = RowList<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
    static constexpr std::int64_t kRows = 12;

    /// 16 x 16: pairs, then quadruples within 128-bit lanes, then the lanes themselves.
    static void transpose(V* rows) {
        V a[16];
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += 4) {
            const V low01 = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            const V high01 = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            const V low23 = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]);
            const V high23 = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
            a[i] = _mm512_shuffle_ps(low01, low23, 0x44);
            a[i + 1] = _mm512_shuffle_ps(low01, low23, 0xEE);
            a[i + 2] = _mm512_shuffle_ps(high01, high23, 0x44);
            a[i + 3] = _mm512_shuffle_ps(high01, high23, 0xEE);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const V even02 = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
            const V odd13 = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD);
            const V even02b = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
            const V odd13b = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xDD);
            rows[i] = _mm512_shuffle_f32x4(even02, even02b, 0x88);
            rows[i + 4] = _mm512_shuffle_f32x4(odd13, odd13b, 0x88);
            rows[i + 8] = _mm512_shuffle_f32x4(even02, even02b, 0xDD);
            rows[i + 12] = _mm512_shuffle_f32x4(odd13, odd13b, 0xDD);
        }
    }
};

}  // namespace

namespace avx512 {

std::size_t attention_workspace(const AttentionProblem& problem) {
    return attend_workspace(problem, Avx512Attention::kLanes);
}

void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    if (problem.dtype == DType::f32) {
        attend<Avx512Attention, float>(problem, args);
    } else {
        attend<Avx512Attention, Bf16Bits>(problem, args);
    }
}

}  // namespace avx512
}  // namespace aerogel
