// The table of memories, and the CPU's.
#include "core/device_memory.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "aerogel/error.h"
#include "base/memory.h"
#include "core/reused_memory.h"
#ifdef AEROGEL_CUDA
#include "core/cuda_memory.h"
#endif

namespace aerogel {
namespace {

// Whole pages where there are many, for steady speed.
std::size_t alignment_of(std::size_t bytes) {
    return bytes < (std::size_t{64} << 10) ? 64 : 4096;
}

std::size_t block_size(std::size_t bytes) {
    const std::size_t alignment = alignment_of(bytes);
    return (bytes + alignment) / alignment * alignment;
}

void* allocate_on_cpu(Device, std::size_t bytes) {
    const std::size_t size = block_size(bytes);
    if (void* reused = take_reused(size)) return reused;
    void* data = std::aligned_alloc(alignment_of(bytes), size);
    if (data != nullptr) prefer_huge_pages(data, size);
    return data;
}

void free_on_cpu(Device, void* data, std::size_t bytes) noexcept {
    if (data != nullptr && !keep_for_reuse(data, block_size(bytes))) std::free(data);
}

void copy_on_cpu(Device, void* to, const void* from, std::size_t bytes) {
    if (bytes != 0) std::memcpy(to, from, bytes);
}

void clear_on_cpu(Device, void* data, std::size_t bytes) {
    std::memset(data, 0, bytes);
}

constexpr DeviceMemory kCpuMemory = {allocate_on_cpu, free_on_cpu, copy_on_cpu,
                                     copy_on_cpu,     copy_on_cpu, clear_on_cpu};

struct MemoryOfDevice {
    DeviceKind kind;
    const DeviceMemory* memory;
};

// A row besides the CPU's stands under the option of its machine: #ifdef AEROGEL_NAME.
constexpr MemoryOfDevice kMemories[] = {
    {DeviceKind::cpu, &kCpuMemory},
#ifdef AEROGEL_CUDA
    {DeviceKind::cuda, &cuda::kMemory},
#endif
};

MemoryOfDevice guest = {DeviceKind::cpu, nullptr};  // changes while a test alone runs

}  // namespace

const DeviceMemory& memory_of(Device device) {
    if (device.kind == DeviceKind::cpu && device.index != 0)
        throw InvalidArgument("[device] the CPU has the index 0, got " + std::to_string(device.index));
    if (guest.memory != nullptr && guest.kind == device.kind) return *guest.memory;
    for (const MemoryOfDevice& row : kMemories)
        if (row.kind == device.kind) return *row.memory;
    throw Unsupported("[device] this build has no memory on the device " + device.describe());
}

std::optional<std::uint64_t> free_bytes(Device device) {
    const DeviceMemory& memory = memory_of(device);
    return memory.free_bytes != nullptr ? std::optional(memory.free_bytes(device)) : std::nullopt;
}

GuestMemory::GuestMemory(Device device, const DeviceMemory& memory) {
    guest = {device.kind, &memory};
}

GuestMemory::~GuestMemory() {
    guest.memory = nullptr;
}

}  // namespace aerogel
