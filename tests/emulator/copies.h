// cp.async, for primitives.h.
#pragma once

#include "emulator/lane.h"

namespace aerogel::emulator {

/// bytes (4, 8 or 16) from global to shared memory; those after kept become zero, and from is not read there.
void copy_begin(void* to, const void* from, int bytes, int kept, Where where);
void copy_commit();
/// Waits until at most newest of this thread's groups are under way.
void copy_wait(int newest, Where where);
void copy_wait_all(Where where);

}  // namespace aerogel::emulator
