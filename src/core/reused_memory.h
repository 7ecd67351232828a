// Large arrays of the CPU that are made and freed in a loop: fresh pages of the system take longer than what
// is written into them, so the memory of one array serves the next one of the same size.
#pragma once

#include <array>
#include <cstddef>
#include <mutex>

namespace aerogel {

/// Blocks of std::aligned_alloc() that wait for the next array of exactly their size. By any thread.
class WaitingBlocks {
  public:
    /// At most so many bytes of them, and kMostBlocks; the oldest go.
    explicit WaitingBlocks(std::size_t most_bytes) : most_(most_bytes) {}
    ~WaitingBlocks() { clear(); }
    WaitingBlocks(const WaitingBlocks&) = delete;
    WaitingBlocks& operator=(const WaitingBlocks&) = delete;

    /// The caller's from now on, with what was last written there; null where none of this size waits.
    void* take(std::size_t size) noexcept;
    /// False where it is larger than all that may wait: the block stays the caller's.
    bool keep(void* block, std::size_t size) noexcept;
    /// Frees them all.
    void clear() noexcept;

    static constexpr std::size_t kMostBlocks = 64;

  private:
    struct Block {
        void* data = nullptr;
        std::size_t size = 0;
    };
    Block remove(std::size_t at) noexcept;

    std::mutex mutex_;
    std::array<Block, kMostBlocks> blocks_;  // the oldest first
    std::size_t count_ = 0, bytes_ = 0, most_;
};

/// While one lives, CPU arrays that are freed, by any thread, wait for such a next one: some 64 MiB of them.
/// All go with the last of these.
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
