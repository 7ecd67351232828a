// AVX-VNNI peak loop: vpdpbusd on 256 bits. That of float32 is AVX2's.
#include "kernels/cpu/avxvnni/dot_bytes.h"
#include "kernels/cpu/avxvnni/kernels.h"

namespace aerogel {
namespace {

constexpr int kChains = 12;

void run_int8(std::int64_t rounds) noexcept {
    __m256i sums[kChains];
    const __m256i factor = _mm256_set1_epi8(3);
#pragma GCC unroll 16
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (auto& sum : sums) sum = dot_bytes(sum, factor, factor);
#pragma GCC unroll 16
        for (auto& sum : sums) __asm__ volatile("" : "+x"(sum));
    }
}

}  // namespace

constexpr PeakKernel avxvnni::kPeakInt8 = {"cpu.avxvnni.peak_int8", PeakKind::int8, kChains * 32 * 2,
                                           run_int8};

}  // namespace aerogel
