// Barriers of a block (__syncthreads and the named ones) and the meetings of a warp.
#include <string>

#include "emulator/barriers.h"
#include "emulator/block.h"

namespace aerogel::emulator {

namespace {

/// What the fiber did so far becomes part of what is told.
void tell(Block& block, Fiber& fiber, Barrier& barrier) {
    if (barrier.told == nullptr) barrier.told = block.pool->blank();
    if (barrier.last != fiber.knows) join(*barrier.told, *fiber.knows);
    block.pool->assign(barrier.last, fiber.knows);
    barrier.told->clock[fiber.id] = fiber.clock++;
}

/// Whole warps only: a barrier counts warps, and on a GPU lanes that stayed away or ended early would not be
/// waited for.
void check_whole_warps(const Block& block, const Barrier& barrier) {
    std::vector<std::uint32_t> lanes(block.warps.size());
    std::vector<const Fiber*> first(block.warps.size());
    for (const Fiber* f : barrier.waiting) {
        lanes[f->warp_id] |= 1U << f->lane_id;
        if (first[f->warp_id] == nullptr) first[f->warp_id] = f;
        if (f->where.line != first[f->warp_id]->where.line) {
            fail("lanes of warp " + std::to_string(f->warp_id) + " stand at two barriers: " +
                     text_of(f->where) + " and " + text_of(first[f->warp_id]->where),
                 f->where);
        }
    }
    for (std::size_t w = 0; w < lanes.size(); ++w) {
        if (lanes[w] != 0 && lanes[w] != ~0U) {
            fail("a barrier is complete without all lanes of warp " + std::to_string(w), first[w]->where);
        }
    }
}

void open(Block& block, Barrier& barrier) {
    for (Fiber* f : barrier.waiting) {
        block.pool->assign(f->knows, barrier.told);
        block.wake(*f);
    }
    ++block.report->barriers;
    reset_barrier(block, barrier);
}

}  // namespace

void reset_barrier(Block& block, Barrier& barrier) {
    block.pool->drop(barrier.told);
    block.pool->drop(barrier.last);
    barrier.told = nullptr;
    barrier.last = nullptr;
    barrier.arrived = barrier.expected = 0;
    barrier.waiting.clear();
}

void leave_barrier(Block& block) {
    // __syncthreads waits for the threads that have not ended.
    Barrier& all = block.barriers[0];
    if (all.arrived == 0 || all.expected != 0 || all.arrived != block.live) return;
    check_whole_warps(block, all);
    open(block, all);
}

void synchronize(int number, unsigned threads, bool waits, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    if (number < 0 || number >= kBarriers) fail("there are barriers 0 to 15", where);
    if (threads % 32 != 0 || threads > block.fibers.size())
        fail("a barrier counts whole warps of the block", where);
    Barrier& barrier = block.barriers[number];
    if (barrier.arrived > 0 && barrier.expected != threads) {
        fail("barrier " + std::to_string(number) + " was entered for another number of threads", where);
    }
    barrier.expected = threads;
    tell(block, me, barrier);
    ++barrier.arrived;
    if (barrier.arrived < (threads == 0 ? block.live : threads)) {
        if (!waits) return;
        barrier.waiting.push_back(&me);
        wait("barrier", number, where);
        return;
    }
    if (waits) {
        me.where = where;
        barrier.waiting.push_back(&me);
    }
    check_whole_warps(block, barrier);
    open(block, barrier);
}

void meet(Operation operation, const void* in, void* out, Where where) {
    Fiber& me = self();
    Block& block = *me.block;
    Warp& warp = block.warps[me.warp_id];
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.where = where;
    } else if (operation != warp.operation || where.line != warp.where.line) {
        fail("lanes of warp " + std::to_string(me.warp_id) + " have parted: others are at " +
                 text_of(warp.where),
             where);
    }
    warp.gathered.in[me.lane_id] = in;
    warp.gathered.out[me.lane_id] = out;
    warp.arrived |= 1U << me.lane_id;
    if (warp.arrived != ~0U) {
        wait("the other lanes of its warp", -1, where);
        return;
    }
    warp.arrived = 0;
    warp.gathered.mask = ~0U;
    count_banks(block, warp);
    operation(warp.gathered);
    ++block.report->meetings;
    warp.runnable = ~0U;
    block.runnable |= 1U << me.warp_id;
}

void synchronize_warp(Where where) {
    meet(
        [](const Gathered& lanes) {
            Fiber& me = self();
            Block& block = *me.block;
            Knowledge* told = block.pool->blank();
            const Knowledge* last = nullptr;
            Fiber* first = &block.fibers[me.warp_id * 32];
            for (int l = 0; l < 32; ++l) {
                if (first[l].knows != last) join(*told, *first[l].knows);
                last = first[l].knows;
            }
            for (int l = 0; l < 32; ++l) told->clock[first[l].id] = first[l].clock++;
            for (int l = 0; l < 32; ++l) block.pool->assign(first[l].knows, told);
            block.pool->drop(told);
            static_cast<void>(lanes);
        },
        nullptr, nullptr, where);
}

}  // namespace aerogel::emulator
