// mbarriers and the fence between threads and the asynchronous engines, for primitives_sm90.h.
#pragma once

#include <cstdint>

#include "emulator/lane.h"

namespace aerogel::emulator {

void mbarrier_init(std::uint64_t* barrier, int arrivals, Where where);
/// Arrives, after adding to the bytes that the phase waits for.
void mbarrier_arrive(std::uint64_t* barrier, int bytes, Where where);
void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity, Where where);

/// fence.proxy.async: what this thread wrote, and what it knows that others wrote, may be read by engines.
void fence_async();

}  // namespace aerogel::emulator
