// AVX2 peak loops: float32 FMA, and the exact int8 product (vpmaddubsw, vpmaddwd, vpaddd).
#include <immintrin.h>

#include "kernels/cpu/avx2/kernels.h"
#include "kernels/cpu/peak_loop.h"

namespace aerogel {
namespace {

constexpr int kChains = 12;

void run_f32(std::int64_t rounds) noexcept {
    const __m256 factor = _mm256_set1_ps(1e-3F);
    run_chains<kChains>(rounds, _mm256_setzero_ps(),
                        [&](__m256 sum) { return _mm256_fmadd_ps(factor, factor, sum); });
}

void run_int8(std::int64_t rounds) noexcept {
    __m256i factor = _mm256_set1_epi8(3);
    const __m256i ones = _mm256_set1_epi16(1);
    run_chains<kChains>(rounds, _mm256_setzero_si256(), [&](__m256i sum) {
        __asm__ volatile("" : "+x"(factor));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(factor, factor), ones));
    });
}

}  // namespace

constexpr PeakKernel avx2::kPeakF32 = {"cpu.avx2.peak_f32", PeakKind::f32, kChains * 8 * 2, run_f32};
constexpr PeakKernel avx2::kPeakInt8 = {"cpu.avx2.peak_int8", PeakKind::int8, kChains * 32 * 2, run_int8};

}  // namespace aerogel
