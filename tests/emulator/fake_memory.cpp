// Allocations in one reserved range, first fit.
#include "emulator/fake_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "emulator/memory.h"

namespace aerogel::emulator {

namespace {

constexpr std::size_t kAlignment = 256, kGap = 256, kPage = 4096;
constexpr int kPoison = 0xFF;

std::size_t up(std::size_t n, std::size_t step) {
    return (n + step - 1) / step * step;
}

}  // namespace

// The pages of what is lent, in as few pieces as there are: pages that were lent once are many.
void FakeMemory::protect(bool open) const {
    const int protection = open ? PROT_READ | PROT_WRITE : PROT_NONE;
    char *first = begin_, *end = begin_;
    const auto change = [&] {
        if (end > first) ::mprotect(first, static_cast<std::size_t>(end - first), protection);
    };
    for (const auto& [block, size] : blocks_) {
        char* const begin_of = begin_ + static_cast<std::size_t>(block - begin_) / kPage * kPage;
        char* const end_of =
            begin_ + up(static_cast<std::size_t>(block - begin_) + up(size, kAlignment) + kGap, kPage);
        if (begin_of > end) {
            change();
            first = begin_of;
        }
        end = std::max(end, end_of);
    }
    change();
}

FakeMemory::OpenPart::OpenPart(FakeMemory& memory, const void* p, std::size_t bytes) {
    if (memory.open_ > 0 || bytes == 0) return;  // a kernel neither allocates nor frees
    const auto first = reinterpret_cast<std::uintptr_t>(p) / kPage * kPage;
    begin_ = reinterpret_cast<void*>(first);
    bytes_ = up(reinterpret_cast<std::uintptr_t>(p) + bytes - first, kPage);
    ::mprotect(begin_, bytes_, PROT_READ | PROT_WRITE);
}

FakeMemory::OpenPart::~OpenPart() {
    if (bytes_ > 0) ::mprotect(begin_, bytes_, PROT_NONE);
}

char* FakeMemory::find_gap(std::size_t bytes) {
    char* at = begin_;
    for (const auto& [block, size] : blocks_) {
        if (block - at >= static_cast<std::ptrdiff_t>(bytes)) return at;
        at = block + up(size, kAlignment) + kGap;
    }
    return begin_ + reserved_ - at >= static_cast<std::ptrdiff_t>(bytes) ? at : nullptr;
}

void* FakeMemory::allocate(std::size_t bytes) {
    if (bytes == 0 || bytes > capacity_ - used_) return nullptr;
    if (begin_ == nullptr) {
        reserved_ = 2 * capacity_;
        void* p = ::mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        begin_ = static_cast<char*>(p);
    }
    const std::size_t whole = up(bytes, kAlignment) + kGap;
    char* p = find_gap(whole);
    if (p == nullptr) return nullptr;
    {
        const OpenPart open(*this, p, whole);
        std::memset(p, kPoison, whole);
    }
    blocks_[p] = bytes;
    used_ += bytes;
    add_allocation(p, bytes);
    return p;
}

bool FakeMemory::free(void* p) {
    const auto at = blocks_.find(static_cast<char*>(p));
    if (at == blocks_.end()) return false;
    remove_allocation(p);
    used_ -= at->second;
    blocks_.erase(at);
    return true;
}

bool FakeMemory::contains(const void* p, std::size_t bytes) const {
    auto after = blocks_.upper_bound(const_cast<char*>(static_cast<const char*>(p)));
    if (after == blocks_.begin()) return false;
    const auto& [block, size] = *std::prev(after);
    return static_cast<const char*>(p) + bytes <= block + size;
}

}  // namespace aerogel::emulator
