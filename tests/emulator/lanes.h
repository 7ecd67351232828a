// Values from lane to lane, for primitives.h.
#pragma once

#include <cstdint>

#include "emulator/lane.h"

namespace aerogel::emulator {

/// out = the value (up to 16 bytes) of another lane.
void shuffle(const void* value, int bytes, int from, void* out, Where where);
/// Bit l is lane l's.
std::uint32_t vote(bool b, Where where);

}  // namespace aerogel::emulator
