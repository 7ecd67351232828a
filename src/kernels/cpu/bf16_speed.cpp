// The two peak loops of AVX-512 against each other.
#include "kernels/cpu/bf16_speed.h"

#include <algorithm>
#include <array>

#include "base/clock.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/cpu/avx512_bf16/kernels.h"

namespace aerogel::cpu {
namespace {

double seconds_of(const PeakKernel& kernel, std::int64_t rounds) {
    const auto start = Clock::now();
    kernel.run(rounds);
    return seconds_since(start);
}

}  // namespace

double measure_bf16_gain() {
    constexpr std::int64_t kRounds = 4096;  // many times what looking at a slow clock takes
    std::array<double, 15> gains{};
    // Turn by turn, so that a neighbour on the same core slows both; the median, as an interrupt hits one.
    for (double& gain : gains) {
        const double f32 = seconds_of(avx512::kPeakF32, kRounds);
        gain = f32 / seconds_of(avx512_bf16::kPeakBf16, kRounds) *
               (avx512_bf16::kPeakBf16.operations_per_round / avx512::kPeakF32.operations_per_round);
    }
    std::sort(gains.begin(), gains.end());
    return gains[gains.size() / 2];
}

std::string slow_bf16() {
    constexpr double kEnough = 1.4;  // between 1 and 2, the gains that there are
    static const bool slow = measure_bf16_gain() < kEnough;
    return slow ? "vdpbf16ps is no faster than float32 here" : "";
}

}  // namespace aerogel::cpu
