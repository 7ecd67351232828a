// mbarriers: their state lies beside the shared memory, by address.
#include "emulator/mbarriers.h"

#include <string>

#include "emulator/block.h"
#include "emulator/engines.h"

namespace aerogel::emulator {

namespace {

MBarrier& find(const std::uint64_t* barrier, Where where) {
    Fiber& me = self();
    const std::size_t offset = shared_offset(me, barrier, 8, 8, where);
    const auto at = me.block->mbarriers.find(offset);
    if (at == me.block->mbarriers.end()) {
        fail("shared byte " + std::to_string(offset) + " is no mbarrier that was initialised", where);
    }
    note_barrier_used(me, offset, where);
    return at->second;
}

}  // namespace

void end_phase_if_complete(Block& block, MBarrier& b) {
    if (b.pending != 0 || b.bytes != 0) return;
    b.phase ^= 1;
    b.pending = b.arrivals;
    // Whoever sees a phase end sees the ends of all before it.
    block.pool->assign(b.opened, b.told);
    Knowledge* next = block.pool->copy(b.told);
    block.pool->assign(b.told, next);
    block.pool->drop(next);
    block.pool->drop(b.last);
    b.last = nullptr;
    for (Fiber* f : b.waiting) block.wake(*f);
    b.waiting.clear();
}

void mbarrier_init(std::uint64_t* barrier, int arrivals, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    require_sm(90, where);
    const std::size_t offset = shared_offset(me, barrier, 8, 8, where);
    if (arrivals <= 0) fail("an mbarrier waits for one arrival at least", where);
    note_write(me, offset, 8, where);
    MBarrier& b = block.mbarriers[offset];
    b.arrivals = b.pending = arrivals;
    b.told = block.pool->blank();
    b.opened = block.pool->blank();
}

void mbarrier_arrive(std::uint64_t* barrier, int bytes, Where where) {
    Fiber& me = self();
    MBarrier& b = find(barrier, where);
    if (b.pending == 0) fail("more arrivals than the mbarrier waits for in a phase", where);
    if (b.last != me.knows) join(*b.told, *me.knows);
    me.block->pool->assign(b.last, me.knows);
    b.told->clock[me.id] = me.clock++;
    b.bytes += bytes;
    --b.pending;
    end_phase_if_complete(*me.block, b);
}

void mbarrier_wait(std::uint64_t* barrier, std::uint32_t parity, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    MBarrier& b = find(barrier, where);
    if (parity > 1) fail("the parity of an mbarrier is 0 or 1", where);
    while (b.phase == parity) {
        b.waiting.push_back(&me);
        wait(parity == 0 ? "mbarrier, parity 0, at shared byte" : "mbarrier, parity 1, at shared byte",
             static_cast<int>(shared_offset(me, barrier, 8, 8, where)), where);
    }
    // Threads that knew the same and learn the same share the result.
    if (b.learned == nullptr || b.learned_from != me.knows || b.learned_to != b.opened) {
        Knowledge* result = block.pool->copy(me.knows);
        join(*result, *b.opened);
        block.pool->assign(b.learned_from, me.knows);
        block.pool->assign(b.learned_to, b.opened);
        block.pool->assign(b.learned, result);
        block.pool->drop(result);
    }
    block.pool->assign(me.knows, b.learned);
}

void fence_async() {
    Fiber& me = self();
    me.fenced = me.clock++;
    me.block->pool->assign(me.fence_knows, me.knows);
}

void reset_engines(Block& block) {
    KnowledgePool& pool = *block.pool;
    for (auto& [offset, b] : block.mbarriers) {
        for (Knowledge* k : {b.told, b.opened, b.last, b.learned_from, b.learned_to, b.learned}) pool.drop(k);
    }
    block.mbarriers.clear();
    block.tiles.clear();
    for (WarpGroup& g : block.groups) g = WarpGroup();
    block.engine_clock.fill(0);
}

void require_sm(int sm, Where where) {
    const int have = self().block->options->sm;
    if (have < sm)
        fail("an instruction of sm_" + std::to_string(sm) + " on sm_" + std::to_string(have), where);
}

}  // namespace aerogel::emulator
