// AVX-512 peak loops: float32 FMA and VNNI (vpdpbusd).
#include <immintrin.h>

#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/peak_loop.h"

namespace aerogel {
namespace {

constexpr int kChains = 16;

void run_f32(std::int64_t rounds) noexcept {
    const __m512 factor = _mm512_set1_ps(1e-3F);
    run_chains<kChains>(rounds, _mm512_setzero_ps(),
                        [&](__m512 sum) { return _mm512_fmadd_ps(factor, factor, sum); });
}

void run_int8(std::int64_t rounds) noexcept {
    const __m512i factor = _mm512_set1_epi8(3);
    run_chains<kChains>(rounds, _mm512_setzero_si512(),
                        [&](__m512i sum) { return _mm512_dpbusd_epi32(sum, factor, factor); });
}

}  // namespace

constexpr PeakKernel avx512::kPeakF32 = {"cpu.avx512.peak_f32", PeakKind::f32, kChains * 16 * 2, run_f32};
constexpr PeakKernel avx512::kPeakInt8 = {"cpu.avx512.peak_int8", PeakKind::int8, kChains * 64 * 2, run_int8};

}  // namespace aerogel
