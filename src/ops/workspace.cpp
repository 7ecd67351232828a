// A pool of the CPU's buffers: the last one given back is lent first, because its pages are the warmest.
// Whoever frees memory does so without the lock, as large memory takes long. Buffers of other devices are
// given back at once: kernels may still be using them, which the memory of the device knows and this pool
// does not.
#include "ops/workspace.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <new>
#include <string>

#include "aerogel/error.h"
#include "base/fork.h"

namespace aerogel {
namespace {

using Buffers = std::list<Workspace::Buffer>;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLarge = std::size_t{256} << 20;
constexpr std::size_t kKept = 8;  // as many threads may take turns without an allocation

struct Pool {
    std::mutex guard;
    Buffers free;  // the last one given back first
};
PerProcess<Pool> pool;

// Small enough to be kept although the call needs less.
bool fits(const Workspace::Buffer& buffer, std::size_t size, Device device) {
    return buffer.device == device && buffer.memory == &memory_of(device) && buffer.size >= size &&
           (buffer.size <= kLarge || buffer.size / 2 <= size);
}

std::size_t bytes_of(const Buffers& buffers) {
    std::size_t bytes = 0;
    for (const Workspace::Buffer& buffer : buffers) bytes += buffer.size;
    return bytes;
}

// One buffer that fits, or none.
Buffers kept_buffer(std::size_t size, Device device) {
    Buffers found, unfit;
    Pool& mine = pool.get();
    const std::lock_guard lock(mine.guard);
    const auto at = std::find_if(mine.free.begin(), mine.free.end(),
                                 [=](const Workspace::Buffer& buffer) { return fits(buffer, size, device); });
    if (at != mine.free.end()) {
        found.splice(found.begin(), mine.free, at);
    } else if (!mine.free.empty()) {
        // One that does not fit goes, so that a growing workload holds one buffer per caller.
        unfit.splice(unfit.begin(), mine.free, mine.free.begin());
    }
    return found;
}

}  // namespace

Workspace::Buffer::Buffer(std::size_t bytes, Device where)
    : size(bytes), device(where), memory(&memory_of(where)) {
    data = static_cast<std::byte*>(memory->allocate(device, size));
    if (data != nullptr) return;
    if (device.kind == DeviceKind::cpu) throw std::bad_alloc();
    throw Error("[workspace] no memory for " + std::to_string(size) + " bytes on " + device.describe());
}

Workspace::Buffer::~Buffer() {
    memory->free(device, data, size);
}

Workspace::Workspace(std::size_t bytes, Device device) {
    if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
    const std::size_t size = (bytes + kPage) / kPage * kPage;
    if (device.kind == DeviceKind::cpu) lent_ = kept_buffer(size, device);
    if (lent_.empty()) lent_.emplace_back(size, device);
}

Workspace::~Workspace() {
    if (lent_.front().device.kind != DeviceKind::cpu) return;
    Buffers surplus;
    Pool& mine = pool.get();
    const std::lock_guard lock(mine.guard);
    mine.free.splice(mine.free.begin(), lent_);
    const std::size_t last = mine.free.front().size;
    while (mine.free.size() > kKept || bytes_of(mine.free) - last > kLarge)
        surplus.splice(surplus.begin(), mine.free, std::prev(mine.free.end()));
}

std::size_t kept_workspace_bytes() {
    Pool& mine = pool.get();
    const std::lock_guard lock(mine.guard);
    return bytes_of(mine.free);
}

}  // namespace aerogel
