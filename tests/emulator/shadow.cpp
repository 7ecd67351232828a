// Races in shared memory. For every byte: when it was written last and when it was read last. An access is
// right when the accesses before it that it must not meet are known to its thread: by a barrier, an mbarrier
// or __syncwarp.
#include <string>
#include <type_traits>

#include "emulator/block.h"
#include "emulator/engines.h"

namespace aerogel::emulator {

namespace {

/// Is what happened at that moment before what the fiber does now?
bool before(const Fiber& fiber, Moment m) {
    const unsigned member = member_of(m);
    return m == 0 || member == fiber.id || fiber.knows->clock[member] >= clock_of(m);
}

/// What threads write is visible to engines after fence_async(): of the writer, or of the one that knows of
/// the write.
bool is_fenced(const Fiber& fiber, Moment written) {
    const Block& block = *fiber.block;
    const unsigned member = member_of(written);
    if (written == 0 || member >= block.fibers.size()) return true;
    return block.fibers[member].fenced >= clock_of(written) ||
           fiber.fence_knows->clock[member] >= clock_of(written);
}

struct Access {
    Fiber& fiber;
    Moment now;
    std::size_t offset;
    Where where;
};

std::string place(std::size_t offset) {
    return "shared byte " + std::to_string(offset);
}

[[noreturn]] void race(const Access& a, std::size_t offset, const char* doing, const char* done,
                       Moment other) {
    const Block& block = *a.fiber.block;
    fail(std::string(doing) + " " + place(offset) + ", which " + name_of(block, member_of(other)) +
             ((other & kInFlight) != 0
                  ? std::string(" may still be ") + (done[0] == 'w' ? "writing" : "reading") +
                        ": it was not waited for"
                  : std::string(" ") + done + " without a barrier between"),
         a.where);
}

void look_at_write(const Access& a, std::size_t offset, Moment m, const char* doing) {
    if ((m & kInFlight) != 0 || !before(a.fiber, m)) race(a, offset, doing, "wrote", m);
}

void look_at_read(const Access& a, std::size_t offset, Moment m, const char* doing) {
    if ((m & kInFlight) != 0 || !before(a.fiber, m)) race(a, offset, doing, "read", m);
}

/// f(n), compiled for the sizes of ordinary accesses.
template <class F>
void of_size(int n, F f) {
    switch (n) {
        case 4:
            return f(std::integral_constant<int, 4>());
        case 8:
            return f(std::integral_constant<int, 8>());
        case 16:
            return f(std::integral_constant<int, 16>());
        default:
            return f(n);
    }
}

/// Calls look(i, moment) once for every run of equal moments: mostly the whole.
template <class Look>
void each_run(const Moment* cells, int bytes, Look look) {
    const Moment first = cells[0];
    Moment differs = 0;
    of_size(bytes, [&](auto n) {
        for (int i = 1; i < n; ++i) differs |= cells[i] ^ first;
    });
    look(0, first);
    if (differs == 0) return;
    for (int i = 1; i < bytes; ++i) {
        if (cells[i] != cells[i - 1]) look(i, cells[i]);
    }
}

void mark(Moment* cells, int bytes, Moment m) {
    of_size(bytes, [&](auto n) {
        for (int i = 0; i < n; ++i) cells[i] = m;
    });
}

/// Products under way read no bytes that change.
void look_at_products(const Access& a, int bytes, const char* doing) {
    const Shadow& s = a.fiber.block->shadow;
    if (s.all_in_use == 0) return;
    for (std::size_t c = a.offset / 16; c <= (a.offset + static_cast<std::size_t>(bytes) - 1) / 16; ++c) {
        if (s.in_use[c] > 0) {
            fail(std::string(doing) + " " + place(c * 16) +
                     ", which a product that was not waited for may still read",
                 a.where);
        }
    }
}

void write(const Access& a, int bytes, Moment mark_as, const char* doing) {
    Shadow& s = a.fiber.block->shadow;
    look_at_products(a, bytes, doing);
    each_run(&s.written[a.offset], bytes,
             [&](int i, Moment m) { look_at_write(a, a.offset + static_cast<std::size_t>(i), m, doing); });
    each_run(&s.read[a.offset], bytes,
             [&](int i, Moment m) { look_at_read(a, a.offset + static_cast<std::size_t>(i), m, doing); });
    mark(&s.written[a.offset], bytes, mark_as);
}

}  // namespace

void note_read(Fiber& fiber, std::size_t offset, int bytes, Where where) {
    if (!fiber.block->options->races) return;
    const Access a{fiber, moment(fiber.id, fiber.clock), offset, where};
    Shadow& s = fiber.block->shadow;
    each_run(&s.written[offset], bytes, [&](int i, Moment m) {
        const std::size_t at = offset + static_cast<std::size_t>(i);
        if (m == 0) fail("reads " + place(at) + ", which nobody has written", where);
        look_at_write(a, at, m, "reads");
    });
    // Of two readers at the same time one is remembered, either of them.
    bool keep = false;
    each_run(&s.read[offset], bytes, [&](int, Moment m) {
        keep |= (m & kInFlight) != 0 || (!before(fiber, m) && (offset / 16 + fiber.id) % 2 == 0);
    });
    if (!keep) mark(&s.read[offset], bytes, a.now);
}

void note_write(Fiber& fiber, std::size_t offset, int bytes, Where where) {
    if (!fiber.block->options->races) return;
    const Moment now = moment(fiber.id, fiber.clock);
    write({fiber, now, offset, where}, bytes, now, "writes");
}

void note_copy_begins(Fiber& fiber, const Copy& copy) {
    if (!fiber.block->options->races) return;
    const Moment now = moment(fiber.id, fiber.clock);
    const auto offset = static_cast<std::size_t>(copy.to - fiber.block->shared);
    write({fiber, now, offset, copy.where}, copy.bytes, now | kInFlight, "copies to");
}

void note_copy_landed(Fiber& fiber, const Copy& copy) {
    if (!fiber.block->options->races) return;
    const auto offset = static_cast<std::size_t>(copy.to - fiber.block->shared);
    mark(&fiber.block->shadow.written[offset], copy.bytes, moment(fiber.id, fiber.clock));
}

void note_barrier_used(Fiber& fiber, std::size_t offset, Where where) {
    if (!fiber.block->options->races) return;
    look_at_write({fiber, 0, offset, where}, offset, fiber.block->shadow.written[offset],
                  "uses the mbarrier at");
}

void note_barrier_fenced(Fiber& fiber, std::size_t offset, Where where) {
    if (!fiber.block->options->races) return;
    if (!is_fenced(fiber, fiber.block->shadow.written[offset])) {
        fail("TMA gets the mbarrier at " + place(offset) +
                 " without mbarrier_fence_init() after its initialisation",
             where);
    }
}

void note_tile_begins(Fiber& fiber, std::size_t offset, int bytes, Where where) {
    if (!fiber.block->options->races) return;
    const auto engine = static_cast<unsigned>(fiber.block->fibers.size());
    const Moment mark_as = moment(engine, 0) | kInFlight;
    write({fiber, mark_as, offset, where}, bytes, mark_as, "lets TMA write");
}

void note_tile_landed(Block& block, std::size_t offset, int bytes) {
    if (!block.options->races) return;
    mark(&block.shadow.written[offset], bytes,
         moment(static_cast<unsigned>(block.fibers.size()), block.engine_clock[0]));
}

void note_product_begins(Block& block, const std::vector<Fiber*>& distinct, std::size_t offset, Where where) {
    if (!block.options->races) return;
    Shadow& s = block.shadow;
    for (Fiber* f : distinct) {
        each_run(&s.written[offset], 16, [&](int i, Moment m) {
            const std::size_t at = offset + static_cast<std::size_t>(i);
            if (m == 0) fail("a product reads " + place(at) + ", which nobody has written", where);
            look_at_write({*f, 0, at, where}, at, m, "a product reads");
            if (!is_fenced(*f, m)) {
                fail("a product reads " + place(at) +
                         ", which threads wrote without fence_async() before the barrier",
                     where);
            }
        });
    }
    ++s.in_use[offset / 16];
    ++s.all_in_use;
}

void note_product_done(Block& block, std::size_t offset, unsigned group) {
    if (!block.options->races) return;
    Shadow& s = block.shadow;
    --s.in_use[offset / 16];
    --s.all_in_use;
    const auto member = static_cast<unsigned>(block.fibers.size()) + 1 + group;
    mark(&s.read[offset], 16, moment(member, block.engine_clock[1 + group]));
}

std::size_t shared_offset(const Fiber& fiber, const void* p, int bytes, int alignment, Where where) {
    const auto* begin = fiber.block->shared;
    const auto offset = static_cast<std::size_t>(static_cast<const unsigned char*>(p) - begin);
    if (offset > fiber.block->shared_bytes ||
        offset + static_cast<std::size_t>(bytes) > fiber.block->shared_bytes) {
        fail("an address outside of the block's " + std::to_string(fiber.block->shared_bytes) +
                 " bytes of shared memory, at " + std::to_string(static_cast<std::ptrdiff_t>(offset)),
             where);
    }
    if (offset % static_cast<std::size_t>(alignment) != 0) {
        fail(place(offset) + " is not a multiple of " + std::to_string(alignment), where);
    }
    return offset;
}

}  // namespace aerogel::emulator
