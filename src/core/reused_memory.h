// Large arrays of the CPU that are made and freed in a loop: fresh pages of the system take longer than what
// is written into them, so the memory of one array serves the next one of the same size.
#pragma once

#include <cstddef>

namespace aerogel {

/// While one lives, CPU arrays that are freed, by any thread, wait for such a next one: some 64 MiB of them,
/// the oldest go. All go with the last of these.
class ReusedMemory {
  public:
    ReusedMemory();
    ~ReusedMemory();
    ReusedMemory(const ReusedMemory&) = delete;
    ReusedMemory& operator=(const ReusedMemory&) = delete;
};

/// For whoever allocates: a block of exactly this size that waits, or null.
void* take_reused(std::size_t size) noexcept;
/// For whoever frees what std::aligned_alloc() gave: false where the block is not wanted.
bool keep_for_reuse(void* block, std::size_t size) noexcept;

}  // namespace aerogel
