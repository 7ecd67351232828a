// cp.async: a copy may land at any moment between its issue and the wait of its thread. Until then its bytes
// belong to nobody; late copies land at the very end of that time, early ones at its beginning.
#include "emulator/copies.h"

#include <cstring>

#include "emulator/block.h"

namespace aerogel::emulator {

namespace {

void move(const Copy& c) {
    if (c.kept > 0) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.kept));
    std::memset(c.to + c.kept, 0, static_cast<std::size_t>(c.bytes - c.kept));
}

void land(Fiber& fiber, const Copy& c) {
    if (fiber.block->options->late) move(c);
    note_copy_landed(fiber, c);
}

}  // namespace

void copy_begin(void* to, const void* from, int bytes, int kept, Where where) {
    Fiber& me = self();
    if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async copies 4, 8 or 16 bytes", where);
    if (kept < 0 || kept > bytes) fail("cp.async keeps 0 to all of its bytes", where);
    shared_offset(me, to, bytes, bytes, where);
    if (reinterpret_cast<std::uintptr_t>(from) % static_cast<unsigned>(bytes) != 0) {
        fail("cp.async from a global address that is not a multiple of " + std::to_string(bytes), where);
    }
    if (kept > 0) read_global(from, kept, where);
    const Copy c{static_cast<unsigned char*>(to),
                 static_cast<const unsigned char*>(from),
                 bytes,
                 kept,
                 me.groups,
                 where};
    note_copy_begins(me, c);
    if (!me.block->options->late) move(c);
    me.copies.push_back(c);
    ++me.block->report->copies;
}

void copy_commit() {
    ++self().groups;
}

void copy_wait(int newest, Where) {
    Fiber& me = self();
    const int done = me.groups - newest;
    std::size_t n = 0;
    while (n < me.copies.size() && me.copies[n].group < done) land(me, me.copies[n++]);
    me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(n));
}

void copy_wait_all(Where) {
    Fiber& me = self();
    for (const Copy& c : me.copies) land(me, c);
    me.copies.clear();
}

}  // namespace aerogel::emulator
