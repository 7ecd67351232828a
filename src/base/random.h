// Seeded normal noise that is the same everywhere: Philox4x32-10 (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011) and the Box-Muller transform.
#pragma once

#include <cstdint>
#include <span>

namespace aerogel {

/// Fills `out` with independent N(0,1) values that depend on (seed, stream, index) only.
void fill_normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream = 0);

}  // namespace aerogel
