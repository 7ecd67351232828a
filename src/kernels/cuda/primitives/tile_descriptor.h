// How wgmma is told where a tile lies in shared memory ("PTX ISA", matrix descriptors).
#pragma once

#include <cstdint>

namespace aerogel::gpu {

/// Of a tile with the 128-byte swizzle at that address of shared memory: eight rows of 128 bytes are 1024,
/// the next eight follow. leading_bytes: from 64 columns to the next where rows run across k; not used where
/// they run along k.
#ifdef __CUDACC__
__host__ __device__
#endif
    constexpr std::uint64_t
    tile_descriptor(std::uint32_t address, std::uint32_t leading_bytes) {
    return static_cast<std::uint64_t>((address & 0x3FFFFU) >> 4) |
           static_cast<std::uint64_t>(leading_bytes >> 4) << 16 | std::uint64_t{1024 >> 4} << 32 |
           std::uint64_t{1} << 62;
}

}  // namespace aerogel::gpu
