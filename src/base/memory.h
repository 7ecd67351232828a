// The machine's memory: how much of it there is, large arrays in huge pages, what is free lent or given back,
// and caches emptied for measuring.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace aerogel {

/// Bytes of memory and swap of the machine, or less where a limit of the process (ulimit -v) or of its
/// control group says so.
std::uint64_t usable_memory_bytes();

/// The least limit of memory of the process's control group and those above it (versions 1 and 2), by the
/// files below `groups` and the list of the process's groups; the largest number where there is none.
std::uint64_t group_memory_bytes(const std::filesystem::path& groups = "/sys/fs/cgroup",
                                 const std::filesystem::path& of_process = "/proc/self/cgroup");

/// Smaller arrays come from memory touched before.
inline constexpr std::size_t kLeastHuge = std::size_t{8} << 20;

/// Asks the system for huge pages behind [at, at + bytes), from kLeastHuge bytes on, so that the first touch
/// of a fresh array costs one page fault per 2 MiB instead of 512. A wish: nothing changes where the system
/// has none or forbids them.
void prefer_huge_pages(void* at, std::size_t bytes) noexcept;

/// Lets the system take the pages of [at, at + bytes) when it is short of memory, until they are written to
/// again: what was there may be gone. The cheap half of freeing.
void lend_to_system(void* at, std::size_t bytes) noexcept;

/// Gives the system the pages that the process has freed: the C library keeps arrays below 32 MiB for later,
/// and hardly ever lets go of them. For the end of something large; takes milliseconds.
void return_freed_memory() noexcept;

/// Bytes of the last-level cache; 64 MiB where the system does not say.
std::int64_t cache_bytes();

/// Reads twice that much with all threads of the pool, so that nothing else is left in it: what is measured
/// next runs as if other work had run in between. Reading needs no privilege and reaches every level.
void empty_caches();

}  // namespace aerogel
