// Large fresh arrays in huge pages: their first touch then costs one page fault per 2 MiB instead of 512.
#pragma once

#include <cstddef>

namespace aerogel {

/// Asks the system for huge pages behind [at, at + bytes), where that is large enough to pay. A wish: nothing
/// changes where the system has none or forbids them.
void prefer_huge_pages(void* at, std::size_t bytes) noexcept;

}  // namespace aerogel
