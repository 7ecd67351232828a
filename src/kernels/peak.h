// Loops that do nothing but multiply and add, to measure what this machine can do at most; the
// benchmarks give every timing as a percentage of it.
#pragma once

#include <cstdint>
#include <string_view>

namespace aerogel {

/// Only levels that multiply bfloat16 as such have a loop of bf16.
enum class PeakKind : std::uint8_t { f32, bf16, int8 };

struct PeakKernel {
    std::string_view name;  ///< "cpu.avx2.peak_f32"
    PeakKind kind;
    double operations_per_round;  ///< a multiplication and an addition count as two
    /// Runs `rounds` rounds on the calling thread.
    void (*run)(std::int64_t rounds) noexcept;
};

}  // namespace aerogel
