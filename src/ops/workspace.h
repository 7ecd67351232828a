// Scratch memory of kernel calls, kept between calls because fresh pages cost more than small kernels.
#pragma once

#include <cstddef>
#include <list>

#include "core/device_memory.h"

namespace aerogel {

/// Scratch memory on the device for as long as it lives, the CPU's lent by a pool of the process: at least
/// `bytes` bytes, 64-byte aligned, of undefined content. Whoever asks in the middle of another call (a
/// question of CancellationQuestion that calls the library) gets other memory. Throws std::bad_alloc, for
/// devices other than the CPU an Error with the device's name. Theirs comes from and goes to the cache of
/// their memory, which knows what streams still do with it.
class Workspace {
  public:
    explicit Workspace(std::size_t bytes, Device device = {});
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    std::byte* data() const { return lent_.front().data; }

    class Buffer {
      public:
        Buffer(std::size_t bytes, Device where);
        ~Buffer();
        Buffer(const Buffer&) = delete;
        Buffer& operator=(const Buffer&) = delete;

        const std::size_t size;
        const Device device;
        const DeviceMemory* const memory;  ///< that of the device when it was made
        std::byte* data;
    };

  private:
    std::list<Buffer> lent_;  // one: a list, so that giving it back allocates nothing
};

/// What the pool keeps while nobody has it: the buffer given back last, and others of 256 MiB together at
/// the most.
std::size_t kept_workspace_bytes();

}  // namespace aerogel
