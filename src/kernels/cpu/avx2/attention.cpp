// The vector operations that attention needs, in AVX2 with FMA. Blocks of 6 rows x 2 vectors: 12 sums,
// two operands and a broadcast of the 16 registers.
#include "kernels/cpu/avx2/kernels.h"

#include "kernels/cpu/attention_driver.h"
#include "kernels/cpu/avx2/vector.h"

namespace aerogel {
namespace {

struct Avx2Attention : Avx2 {
    using Rows = RowList<1, 2, 3, 4, 5, 6>;
    static constexpr std::int64_t kRows = 6;

    /// 8 x 8: pairs, then quadruples within 128-bit lanes, then the lanes themselves.
    static void transpose(V* rows) {
        V a[8];
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            const V low01 = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            const V high01 = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
            const V low23 = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
            const V high23 = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
            a[i] = _mm256_shuffle_ps(low01, low23, 0x44);
            a[i + 1] = _mm256_shuffle_ps(low01, low23, 0xEE);
            a[i + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
            a[i + 3] = _mm256_shuffle_ps(high01, high23, 0xEE);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            rows[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
            rows[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
        }
    }
};

}  // namespace

constexpr AttentionKernel avx2::kAttention = {.name = "cpu.avx2.attention",
                                              .formats = kFloatFormats,
                                              .why_not = takes_all,
                                              .workspace_bytes = attend_workspace<Avx2Attention>,
                                              .run = attend<Avx2Attention>};

}  // namespace aerogel
