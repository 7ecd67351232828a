// Memory as a device has it: the host crashes where it reads or writes it without a copy.
#pragma once

#include <sys/mman.h>

#include <cstring>

#include "core/device_memory.h"

namespace aerogel::testing {

/// Readable and writable while it lives, for copies and for kernels of the device. Not nested.
class Unhidden {
  public:
    Unhidden(void* data, std::size_t bytes) : data_(data), bytes_(bytes) {
        ::mprotect(data_, bytes_, PROT_READ | PROT_WRITE);
    }
    ~Unhidden() { ::mprotect(data_, bytes_, PROT_NONE); }
    Unhidden(const Unhidden&) = delete;
    Unhidden& operator=(const Unhidden&) = delete;

  private:
    void* data_;
    std::size_t bytes_;
};

inline std::size_t hidden_bytes(std::size_t bytes) {
    return (bytes / 4096 + 1) * 4096;
}

inline void* page_of(const void* data) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    return reinterpret_cast<void*>(address / 4096 * 4096);
}

/// `copy` with the pages of `data` open.
template <typename Copy>
void open_for(const void* data, std::size_t bytes, const Copy& copy) {
    const auto inside = reinterpret_cast<std::uintptr_t>(data) % 4096;
    const Unhidden open(page_of(data), hidden_bytes(bytes + inside));
    copy();
}

inline constexpr DeviceMemory kHiddenMemory = {
    .allocate =
        [](Device, std::size_t bytes) {
            void* data = ::mmap(nullptr, hidden_bytes(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            return data == MAP_FAILED ? nullptr : data;
        },
    .free = [](Device, void* data, std::size_t bytes) noexcept { ::munmap(data, hidden_bytes(bytes)); },
    .from_host = [](Device, void* to, const void* from,
                    std::size_t bytes) { open_for(to, bytes, [=] { std::memcpy(to, from, bytes); }); },
    .to_host = [](Device, void* to, const void* from,
                  std::size_t bytes) { open_for(from, bytes, [=] { std::memcpy(to, from, bytes); }); },
    .copy =
        [](Device, void* to, const void* from, std::size_t bytes) {
            open_for(to, bytes, [=] { open_for(from, bytes, [=] { std::memcpy(to, from, bytes); }); });
        },
    .clear = [](Device, void* data,
                std::size_t bytes) { open_for(data, bytes, [=] { std::memset(data, 0, bytes); }); },
};

}  // namespace aerogel::testing
