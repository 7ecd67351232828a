// Memory as a device has it: the host crashes where it reads or writes it without a copy.
#pragma once

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>

#include "core/device_memory.h"

namespace aerogel::testing {

inline std::size_t hidden_bytes(std::size_t bytes) {
    return (bytes / 4096 + 1) * 4096;
}

/// What is allocated, and how many want it open.
struct HiddenPages {
    std::mutex guard;
    std::map<void*, std::size_t> pages;
    int open = 0;

    void protect(int protection) {
        for (const auto& [data, bytes] : pages) ::mprotect(data, bytes, protection);
    }
    int protection() const { return open > 0 ? PROT_READ | PROT_WRITE : PROT_NONE; }
};
inline HiddenPages hidden_pages;

/// All of it is readable and writable while one of these lives: for copies and for kernels of the device.
class Unhidden {
  public:
    Unhidden() {
        const std::lock_guard lock(hidden_pages.guard);
        if (hidden_pages.open++ == 0) hidden_pages.protect(PROT_READ | PROT_WRITE);
    }
    ~Unhidden() {
        const std::lock_guard lock(hidden_pages.guard);
        if (--hidden_pages.open == 0) hidden_pages.protect(PROT_NONE);
    }
    Unhidden(const Unhidden&) = delete;
    Unhidden& operator=(const Unhidden&) = delete;
};

inline void* allocate_hidden(Device, std::size_t bytes) {
    const std::lock_guard lock(hidden_pages.guard);
    void* data =
        ::mmap(nullptr, hidden_bytes(bytes), hidden_pages.protection(), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    hidden_pages.pages[data] = hidden_bytes(bytes);
    return data;
}

inline void free_hidden(Device, void* data, std::size_t bytes) noexcept {
    const std::lock_guard lock(hidden_pages.guard);
    hidden_pages.pages.erase(data);
    ::munmap(data, hidden_bytes(bytes));
}

/// Of all arrays that are there.
inline std::size_t hidden_bytes_in_use() {
    const std::lock_guard lock(hidden_pages.guard);
    std::size_t bytes = 0;
    for (const auto& [data, size] : hidden_pages.pages) bytes += size;
    return bytes;
}

inline void copy_hidden(Device, void* to, const void* from, std::size_t bytes) {
    const Unhidden open;
    std::memcpy(to, from, bytes);
}

inline constexpr DeviceMemory kHiddenMemory = {
    .allocate = allocate_hidden,
    .free = free_hidden,
    .from_host = copy_hidden,
    .to_host = copy_hidden,
    .copy = copy_hidden,
    .clear =
        [](Device, void* data, std::size_t bytes) {
            const Unhidden open;
            std::memset(data, 0, bytes);
        },
};

}  // namespace aerogel::testing
