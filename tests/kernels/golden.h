// What kernels answered on a real card, kept in a file and compared with later: on that card, on another, or
// in the emulator. The conformance suites show their answers here, each beside its own comparison with the
// reference; bench/gpu.py sets the variables.
//   AEROGEL_GOLDEN_WRITE=FILE  answers are kept, and added to FILE (safetensors) when the suites end
//   AEROGEL_GOLDEN=FILE        answers are compared with those of FILE
#pragma once

#include <span>
#include <string>

namespace aerogel::testing {

/// `answer` names the kernel and the problem; `bounds` say how far each number may lie from the exact one, so
/// two answers lie twice as far apart at most; without bounds they have the same bits. Empty, or the first
/// number that differs from the file's. Of many numbers some are looked at, so that files stay small.
std::string golden_difference(const std::string& answer, std::span<const float> got,
                              std::span<const double> bounds = {});

}  // namespace aerogel::testing
