// How much memory this process may ever have.
#pragma once

#include <cstdint>

namespace aerogel {

/// Bytes of memory and swap of the machine, or less where a limit of the process (ulimit -v) or of its
/// control group says so.
std::uint64_t usable_memory_bytes();

}  // namespace aerogel
