// Barriers of a block, for language.h and primitives.h.
#pragma once

#include "emulator/lane.h"

namespace aerogel::emulator {

struct Block;
struct Barrier;

/// bar.sync (waits) or bar.arrive of that many threads; 0 threads: all that have not ended.
void synchronize(int number, unsigned threads, bool waits, Where where);

/// __syncwarp
void synchronize_warp(Where where);

void reset_barrier(Block& block, Barrier& barrier);
/// A thread has ended: the others may no longer wait for it.
void leave_barrier(Block& block);

}  // namespace aerogel::emulator
