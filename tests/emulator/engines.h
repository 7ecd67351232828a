// What works beside the threads of a block on sm_90: tiles under way by TMA, products of warp groups.
#pragma once

#include <cstdint>
#include <vector>

#include "emulator/lane.h"

namespace aerogel::emulator {

struct Block;
struct Fiber;
struct MBarrier;

/// An instruction that came with that architecture.
void require_sm(int sm, Where where);

void end_phase_if_complete(Block& block, MBarrier& barrier);

/// Lets one of the tiles under way land; false if there is none.
bool land_a_tile(Block& block);

/// Gives back what the block before it left.
void reset_engines(Block& block);

// --- shadow.cpp ---
/// The thread may use an mbarrier whose initialisation it knows of.
void note_barrier_used(Fiber& fiber, std::size_t offset, Where where);
/// And may hand it to TMA, if fence_async() came after the initialisation.
void note_barrier_fenced(Fiber& fiber, std::size_t offset, Where where);
/// The copy engine may write from now on, and until it has landed.
void note_tile_begins(Fiber& fiber, std::size_t offset, int bytes, Where where);
void note_tile_landed(Block& block, std::size_t offset, int bytes);
/// Tensor cores read 16 bytes from now on, for the fibers of a warp group.
void note_product_begins(Block& block, const std::vector<Fiber*>& distinct, std::size_t offset, Where where);
void note_product_done(Block& block, std::size_t offset, unsigned group);

}  // namespace aerogel::emulator
