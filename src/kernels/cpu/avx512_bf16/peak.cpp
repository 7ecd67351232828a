// AVX-512 BF16 peak loop: vdpbf16ps.
#include <immintrin.h>

#include "kernels/cpu/avx512_bf16/kernels.h"
#include "kernels/cpu/peak_loop.h"

namespace aerogel {
namespace {

constexpr int kChains = 16;

void run(std::int64_t rounds) noexcept {
    const auto factor = __builtin_bit_cast(__m512bh, _mm512_set1_epi16(0x3C00));
    run_chains<kChains>(rounds, _mm512_setzero_ps(),
                        [&](__m512 sum) { return _mm512_dpbf16_ps(sum, factor, factor); });
}

}  // namespace

constexpr PeakKernel avx512_bf16::kPeakBf16 = {"cpu.avx512_bf16.peak_bf16", PeakKind::bf16, kChains * 32 * 2,
                                               run};

}  // namespace aerogel
