// The allocations, sorted by address.
#include "emulator/memory.h"

#include <dlfcn.h>

#include <map>

namespace aerogel::emulator {

namespace {

struct Allocations {
    std::map<const char*, std::size_t> bytes;     ///< by first byte
    const char *begin = nullptr, *end = nullptr;  ///< the one found last
};

Allocations& allocations() {
    static Allocations a;
    return a;
}

}  // namespace

void add_allocation(const void* p, std::size_t bytes) {
    allocations().bytes[static_cast<const char*>(p)] = bytes;
}

bool remove_allocation(const void* p) {
    Allocations& a = allocations();
    a.begin = a.end = nullptr;
    return a.bytes.erase(static_cast<const char*>(p)) > 0;
}

bool may_touch(const void* p, int bytes, bool writes) {
    Allocations& a = allocations();
    const auto* begin = static_cast<const char*>(p);
    if (begin >= a.begin && begin + bytes <= a.end) return true;
    const auto after = a.bytes.upper_bound(begin);
    if (after != a.bytes.begin()) {
        const auto& [first, size] = *std::prev(after);
        if (begin + bytes <= first + size) {
            a.begin = first;
            a.end = first + size;
            return true;
        }
    }
    Dl_info info;
    return !writes && ::dladdr(p, &info) != 0;
}

}  // namespace aerogel::emulator
