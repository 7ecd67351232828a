// AVX-512 peak loops: float32 FMA and VNNI (vpdpbusd).
#include <immintrin.h>

#include "kernels/cpu/avx512/kernels.h"

namespace aerogel {
namespace {

constexpr int kChains = 16;

void run_f32(std::int64_t rounds) noexcept {
    __m512 sums[kChains];
    const __m512 factor = _mm512_set1_ps(1e-3F);
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (auto& sum : sums) sum = _mm512_fmadd_ps(factor, factor, sum);
#pragma GCC unroll 16
        for (auto& sum : sums) __asm__ volatile("" : "+v"(sum));
    }
}

void run_int8(std::int64_t rounds) noexcept {
    __m512i sums[kChains];
    const __m512i factor = _mm512_set1_epi8(3);
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, factor, factor);
#pragma GCC unroll 16
        for (auto& sum : sums) __asm__ volatile("" : "+v"(sum));
    }
}

}  // namespace

constexpr PeakKernel avx512::kPeakF32 = {"cpu.avx512.peak_f32", PeakKind::f32, kChains * 16 * 2, run_f32};
constexpr PeakKernel avx512::kPeakInt8 = {"cpu.avx512.peak_int8", PeakKind::int8, kChains * 64 * 2, run_int8};

}  // namespace aerogel
