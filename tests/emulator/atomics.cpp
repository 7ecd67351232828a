// Checks of atomic operations.
#include "emulator/atomics.h"

#include "emulator/block.h"

namespace aerogel::emulator {

void check_atomic(void* p, int bytes, Where where) {
    Fiber& me = self();
    if (static_cast<std::size_t>(static_cast<unsigned char*>(p) - me.block->shared) < kSharedReserveBytes) {
        shared_offset(me, p, bytes, bytes, where);
        return;
    }
    if (reinterpret_cast<std::uintptr_t>(p) % static_cast<unsigned>(bytes) != 0) {
        fail("an atomic operation on an address that is not a multiple of its size", where);
    }
    check_global(p, bytes, true, where);
}

}  // namespace aerogel::emulator
