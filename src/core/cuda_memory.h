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
/// AEROGEL_CUDA_MEMORY=exact keeps nothing, so that tools see where an array ends.
extern const DeviceMemory kMemory;

/// The library is about to put work on this stream of the device, which is current. Everything that launches
/// says so.
void note_stream(int device, void* stream) noexcept;

/// Bytes that are kept while nobody has them.
std::size_t kept_bytes(int device);
/// Gives them back to the driver.
void release_kept(int device);

}  // namespace aerogel::cuda
