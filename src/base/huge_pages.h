// Large fresh arrays in huge pages: their first touch then costs one page fault per 2 MiB instead of 512.
#pragma once

#include <cstddef>

namespace aerogel {

/// Smaller arrays come from memory touched before.
inline constexpr std::size_t kLeastHuge = std::size_t{8} << 20;

/// Asks the system for huge pages behind [at, at + bytes), from kLeastHuge bytes on. A wish: nothing
/// changes where the system has none or forbids them.
void prefer_huge_pages(void* at, std::size_t bytes) noexcept;

}  // namespace aerogel
