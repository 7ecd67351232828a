// Shuffles and votes.
#include "emulator/lanes.h"

#include <cstring>

#include "emulator/block.h"

namespace aerogel::emulator {

namespace {

struct Shuffled {
    unsigned char value[16];
    int from;
};

}  // namespace

void shuffle(const void* value, int bytes, int from, void* out, Where where) {
    Shuffled in{};
    std::memcpy(in.value, value, static_cast<std::size_t>(bytes));
    in.from = from & 31;
    unsigned char got[16];
    meet(
        [](const Gathered& g) {
            for (int l = 0; l < 32; ++l) {
                const int other = static_cast<const Shuffled*>(g.in[l])->from;
                std::memcpy(g.out[l], static_cast<const Shuffled*>(g.in[other])->value, 16);
            }
        },
        &in, got, where);
    std::memcpy(out, got, static_cast<std::size_t>(bytes));
}

std::uint32_t vote(bool b, Where where) {
    std::uint32_t out = 0;
    meet(
        [](const Gathered& g) {
            std::uint32_t bits = 0;
            for (int l = 0; l < 32; ++l)
                bits |= static_cast<std::uint32_t>(*static_cast<const bool*>(g.in[l])) << l;
            for (int l = 0; l < 32; ++l) *static_cast<std::uint32_t*>(g.out[l]) = bits;
        },
        &b, &out, where);
    return out;
}

}  // namespace aerogel::emulator
