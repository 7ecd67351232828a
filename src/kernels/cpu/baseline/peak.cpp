// Peak loops for every x86-64 (SSE2): multiply, then add.
#include "kernels/cpu/baseline/kernels.h"

#include <emmintrin.h>

namespace aerogel {
namespace {

constexpr int kChains = 6;

void run_f32(std::int64_t rounds) noexcept {
    __m128 sums[kChains];
    __m128 factor = _mm_set1_ps(1e-3F);
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm_setzero_ps();
    for (std::int64_t round = 0; round < rounds; ++round) {
        __asm__ volatile("" : "+x"(factor));
#pragma GCC unroll 16
        for (auto& sum : sums) sum = _mm_add_ps(sum, _mm_mul_ps(factor, factor));
#pragma GCC unroll 16
        for (auto& sum : sums) __asm__ volatile("" : "+x"(sum));
    }
}

void run_int8(std::int64_t rounds) noexcept {
    __m128i sums[kChains];
    __m128i factor = _mm_set1_epi16(3);
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm_setzero_si128();
    for (std::int64_t round = 0; round < rounds; ++round) {
        __asm__ volatile("" : "+x"(factor));
#pragma GCC unroll 16
        for (auto& sum : sums) sum = _mm_add_epi32(sum, _mm_madd_epi16(factor, factor));
#pragma GCC unroll 16
        for (auto& sum : sums) __asm__ volatile("" : "+x"(sum));
    }
}

}  // namespace

constexpr PeakKernel baseline::kPeakF32 = {"cpu.baseline.peak_f32", PeakKind::f32, kChains * 4 * 2, run_f32};
constexpr PeakKernel baseline::kPeakInt8 = {"cpu.baseline.peak_int8", PeakKind::int8, kChains * 8 * 2,
                                            run_int8};

}  // namespace aerogel
