// Loops that do nothing but multiply and add, to measure what this machine can do at most; the
// benchmarks give every timing as a percentage of it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/cpu_features.h"

namespace aerogel {

/// Only levels that multiply bfloat16 as such have a loop of bf16.
enum class PeakKind : std::uint8_t { f32, bf16, int8 };

struct PeakKernel {
    std::string_view name;  ///< "cpu.avx2.peak_f32"
    CpuLevel level;
    PeakKind kind;
    double operations_per_round;  ///< a multiplication and an addition count as two
    /// Runs `rounds` rounds on the calling thread.
    void (*run)(std::int64_t rounds) noexcept;
};

namespace cpu {
extern const PeakKernel kAmxPeakInt8;
extern const PeakKernel kAmxPeakBf16;
extern const PeakKernel kAvx512PeakF32;
extern const PeakKernel kAvx512PeakInt8;
extern const PeakKernel kAvx2PeakF32;
extern const PeakKernel kAvx2PeakInt8;
}  // namespace cpu

/// Highest level first.
std::span<const PeakKernel> peak_kernels();

}  // namespace aerogel
