// AVX-VNNI peak loop: vpdpbusd on 256 bits. That of float32 is AVX2's.
#include "kernels/cpu/avxvnni/dot_bytes.h"
#include "kernels/cpu/avxvnni/kernels.h"
#include "kernels/cpu/peak_loop.h"

namespace aerogel {
namespace {

constexpr int kChains = 12;

void run_int8(std::int64_t rounds) noexcept {
    const __m256i factor = _mm256_set1_epi8(3);
    run_chains<kChains>(rounds, _mm256_setzero_si256(),
                        [&](__m256i sum) { return dot_bytes(sum, factor, factor); });
}

}  // namespace

constexpr PeakKernel avxvnni::kPeakInt8 = {"cpu.avxvnni.peak_int8", PeakKind::int8, kChains * 32 * 2,
                                           run_int8};

}  // namespace aerogel
