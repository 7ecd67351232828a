// madvise() of the whole pages of a range.
#include "base/huge_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace aerogel {

void prefer_huge_pages(void* at, std::size_t bytes) noexcept {
    constexpr std::uintptr_t kPage = 4096;
    if (bytes < kLeastHuge) return;
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    const std::uintptr_t first = (address + kPage - 1) / kPage * kPage,
                         end = (address + bytes) / kPage * kPage;
    madvise(static_cast<std::byte*>(at) + (first - address), end - first, MADV_HUGEPAGE);
}

}  // namespace aerogel
