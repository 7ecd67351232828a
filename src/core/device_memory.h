// What a kind of device knows of its memory. Tensors allocate and copy through this and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "aerogel/tensor.h"

namespace aerogel {

/// Errors of the functions are Error ("[device] ..."); sizes may be 0. Copies have happened when they return.
struct DeviceMemory {
    void* (*allocate)(Device device,
                      std::size_t bytes);  ///< 64-byte aligned, uninitialised; null where there is none
    void (*free)(Device device, void* data, std::size_t bytes) noexcept;
    void (*from_host)(Device device, void* to, const void* from, std::size_t bytes);
    void (*to_host)(Device device, void* to, const void* from, std::size_t bytes);
    void (*copy)(Device device, void* to, const void* from, std::size_t bytes);  ///< within the device
    void (*clear)(Device device, void* data, std::size_t bytes);                 ///< to zero bytes
    /// Null where from_host() does as well: puts the copy on a stream of the device; `from` may be freed at
    /// once.
    void (*send)(Device device, void* to, const void* from, std::size_t bytes, void* stream) = nullptr;
    /// What can still be allocated; null where nothing says.
    std::uint64_t (*free_bytes)(Device device) = nullptr;
};

/// Throws Unsupported when this build does not know the device.
const DeviceMemory& memory_of(Device device);

/// What can still be allocated on the device; nullopt where nothing says, as for the host. Errors of
/// memory_of() and of the device.
std::optional<std::uint64_t> free_bytes(Device device);

/// For tests: lets other memory answer for a kind of device as long as this lives.
class GuestMemory {
  public:
    GuestMemory(Device device, const DeviceMemory& memory);
    ~GuestMemory();
    GuestMemory(const GuestMemory&) = delete;
    GuestMemory& operator=(const GuestMemory&) = delete;
};

}  // namespace aerogel
