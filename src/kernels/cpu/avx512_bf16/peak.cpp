// AVX-512 BF16 peak loop: vdpbf16ps.
#include <immintrin.h>

#include "kernels/cpu/avx512_bf16/kernels.h"

namespace aerogel {
namespace {

constexpr int kChains = 16;

void run(std::int64_t rounds) noexcept {
    __m512 sums[kChains];
    const auto factor = __builtin_bit_cast(__m512bh, _mm512_set1_epi16(0x3C00));
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, factor, factor);
#pragma GCC unroll 16
        for (auto& sum : sums) __asm__ volatile("" : "+v"(sum));
    }
}

}  // namespace

constexpr PeakKernel avx512_bf16::kPeakBf16 = {"cpu.avx512_bf16.peak_bf16", PeakKind::bf16, kChains * 32 * 2,
                                               run};

}  // namespace aerogel
