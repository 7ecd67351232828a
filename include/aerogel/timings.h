// Where the time of models goes: what the operations of the process take.
// layer: base
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace aerogel {

/// What an operation multiplies, which says what it could reach at most.
enum class Arithmetic : std::uint8_t { none, f32, bf16, int8 };

/// The calls of one operation with one kernel.
struct OperationTime {
    std::string op = {};      ///< "linear", "attention", "norm" ...
    std::string kernel = {};  ///< "cpu.avx512.w8a8"; empty where it is no single one
    Arithmetic arithmetic = Arithmetic::none;
    std::int64_t calls = 0;
    double seconds = 0.0;     ///< without those of operations within it
    double operations = 0.0;  ///< a multiplication and an addition count as two; 0: it moves data
    double bytes = 0.0;       ///< of its arrays, each once
};

/// Measures while it lives what all threads call. One at a time: Error where there is one already.
class Timings {
  public:
    Timings();
    ~Timings();
    Timings(const Timings&) = delete;
    Timings& operator=(const Timings&) = delete;

    /// So far, the longest first.
    std::vector<OperationTime> operations() const;
};

}  // namespace aerogel
