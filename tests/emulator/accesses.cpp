// Every load and store of a kernel. The compiler tells them: kernels are compiled with -fsanitize=thread,
// whose calls end here instead of in that sanitizer's library. Shared memory goes to the shadow, the rest
// must be memory that the kernel may touch. The k-th access of each lane at one instruction makes a warp's
// access: its bank conflicts.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "emulator/accesses.h"
#include "emulator/block.h"
#include "emulator/memory.h"

namespace aerogel::emulator {

namespace {

struct Pointer {
    const unsigned char* p;
    int bytes;
    bool writes;
};

void look_at_global(Fiber& me, Pointer a, int alignment, Where where) {
    if (reinterpret_cast<std::uintptr_t>(a.p) % static_cast<unsigned>(alignment) != 0) {
        fail("a global address that is not a multiple of " + std::to_string(alignment), where);
    }
    check_global(a.p, a.bytes, a.writes, where);
    if (!me.block->options->races) return;
    if (a.writes) {
        me.block->global->write(me, a.p, a.bytes, where);
    } else {
        me.block->global->read(me, a.p, a.bytes, where);
    }
}

void look(Pointer a, int alignment, Where where, const void* instruction) {
    if (running == nullptr) return;
    Fiber& me = self();
    Block& block = *me.block;
    const auto offset = static_cast<std::size_t>(a.p - block.shared);
    if (offset < kSharedReserveBytes) {
        const std::size_t at = shared_offset(me, a.p, a.bytes, alignment, where);
        if (a.writes) {
            note_write(me, at, a.bytes, where);
        } else {
            note_read(me, at, a.bytes, where);
        }
        note_banks(me, instruction, static_cast<unsigned>(at), a.bytes);
    } else if (!on_stack(me, a.p)) {
        look_at_global(me, a, alignment, where);
    }
}

}  // namespace

void load(void* to, const void* from, int bytes, Where where) {
    look({static_cast<const unsigned char*>(from), bytes, false}, bytes, where, where.file + where.line);
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void store(void* to, const void* from, int bytes, Where where) {
    look({static_cast<const unsigned char*>(to), bytes, true}, bytes, where, where.file + where.line);
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

void read_shared(const void* from, int bytes, Where where) {
    Fiber& me = self();
    note_read(me, shared_offset(me, from, bytes, bytes, where), bytes, where);
}

void check_global(const void* p, int bytes, bool writes, Where where) {
    const Fiber& me = self();
    if (!me.block->options->foreign_memory && !may_touch(p, bytes, writes)) {
        fail(std::string(writes ? "writes" : "reads") + " global memory that is no part of an allocation",
             where);
    }
}

void read_global(const void* p, int bytes, Where where) {
    look_at_global(self(), {static_cast<const unsigned char*>(p), bytes, false}, 1, where);
}

void instrumented(const void* p, int bytes, bool writes, const void* instruction) {
    look({static_cast<const unsigned char*>(p), bytes, writes}, 1,
         {static_cast<const char*>(instruction), -1}, instruction);
}

void note_banks(Fiber& fiber, const void* instruction, unsigned offset, int bytes) {
    Warp& warp = fiber.block->warps[fiber.warp_id];
    Site& site = warp.site_of(instruction);
    const unsigned turn = site.turns[fiber.lane_id]++;
    if (turn >= kMostTurns) return;
    if (site.accesses.empty()) warp.accessed.push_back(&site);
    if (turn >= site.accesses.size()) site.accesses.resize(turn + 1);
    WarpAccess& access = site.accesses[turn];
    access.offset[fiber.lane_id] = offset;
    access.lanes |= 1U << fiber.lane_id;
    access.bytes = bytes;
}

namespace {

/// How often one pass over the banks is not enough: lanes that want other words of a bank come later.
/// Accesses of 8 and 16 bytes go by half and quarter warps.
unsigned passes_too_many(const WarpAccess& a) {
    const unsigned words = a.bytes <= 4 ? 1 : static_cast<unsigned>(a.bytes) / 4,
                   group = std::max(32 / words, 1U);
    unsigned extra = 0;
    for (unsigned first = 0; first < 32; first += group) {
        unsigned wanted[32][32];  // by bank, the words of it
        std::array<unsigned char, 32> count{};
        unsigned worst = 1;
        for (unsigned l = first; l < std::min(first + group, 32U); ++l) {
            if ((a.lanes >> l & 1) == 0) continue;
            for (unsigned w = 0; w < words; ++w) {
                const unsigned word = a.offset[l] / 4 + w, bank = word % 32, n = count[bank];
                if (std::find(wanted[bank], wanted[bank] + n, word) != wanted[bank] + n) continue;
                wanted[bank][n] = word;
                count[bank] = static_cast<unsigned char>(n + 1);
                worst = std::max(worst, n + 1);
            }
        }
        extra += worst - 1;
    }
    return extra;
}

}  // namespace

void count_banks(Block& block, Warp& warp) {
    for (Site* site : warp.accessed) {
        for (const WarpAccess& a : site->accesses) {
            ++block.report->shared_accesses;
            block.report->shared_conflicts += passes_too_many(a);
        }
        site->accesses.clear();
        site->turns.fill(0);
    }
    warp.accessed.clear();
}

}  // namespace aerogel::emulator
