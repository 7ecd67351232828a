// Checks of atomic operations.
#include "emulator/atomics.h"

#include <cstring>

#include "emulator/block.h"

namespace aerogel::emulator {

void atomic_read(void* to, const void* p, int bytes, Where where) {
    Fiber& me = self();
    const auto offset = static_cast<std::size_t>(static_cast<const unsigned char*>(p) - me.block->shared);
    if (offset < kSharedReserveBytes) {
        shared_offset(me, p, bytes, bytes, where);
    } else if (reinterpret_cast<std::uintptr_t>(p) % static_cast<unsigned>(bytes) != 0) {
        fail("an atomic operation on an address that is not a multiple of its size", where);
    } else {
        check_global(p, bytes, true, where);
        me.block->has_atomics = true;
    }
    std::memcpy(to, p, static_cast<std::size_t>(bytes));
}

void atomic_write(void* p, const void* from, int bytes) {
    std::memcpy(p, from, static_cast<std::size_t>(bytes));
}

}  // namespace aerogel::emulator
