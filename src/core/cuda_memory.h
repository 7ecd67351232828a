// Memory of CUDA devices: the row of device_memory.cpp, and which streams may still be using what is freed.
#pragma once

#include <cstddef>

#include "core/device_memory.h"

namespace aerogel::cuda {

/// Freed memory is kept and lent again, because cuMemAlloc takes long and cuMemFree waits for the device.
/// Work already on a stream may go on using what is freed: it is lent again for work behind it on the same
/// stream, or, once the device has been used with a second stream, when all streams got past the moment of
/// the freeing. The first use of a second stream waits for the device. Copies from and to the host wait for
/// all that was put on the device. A stream must outlive the arrays used on it; one that takes no event any
/// more is forgotten.
/// What is freed while a stream of the device is captured is never lent again, as the graph goes on using it.
/// AEROGEL_CUDA_MEMORY=exact keeps nothing, so that tools see where an array ends.
extern const DeviceMemory kMemory;

/// The library is about to put work on this stream of the device, which is current. Everything that launches
/// says so.
void note_stream(int device, void* stream) noexcept;

/// Where a framework works with the same GPU it lends the library its memory, so that there is one cache, one
/// account of it, and one pool while a graph is captured.
struct MemoryLender {
    /// May throw; null where there is none. What it gives is free for work of the calling thread's stream.
    void* (*lend)(int device, std::size_t bytes);
    /// Work on that stream may go on using it.
    void (*take_back)(void* data) noexcept;
};
/// From now on new arrays lie in memory from there, and their stream is the lender's business; those of
/// before go back to where they came from. To be called before the first array is made, by one thread.
void borrow_memory(const MemoryLender& lender);

/// Bytes that are kept while nobody has them.
std::size_t kept_bytes(int device);

}  // namespace aerogel::cuda
