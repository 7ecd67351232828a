// Each primitive against plain arithmetic, on the emulated card and on a real one: a kernel per primitive, in
// which each thread does with it what it is for and counts what is not as it should be. NAME.cu has those
// of a kind of card, table() names them all.
#pragma once

#include <cstdint>

namespace aerogel::testing {

struct PrimitiveArgs {
    const unsigned char* bytes = nullptr;  ///< random, kPrimitiveBytes
    std::int32_t* wrong = nullptr;         ///< by thread
    std::int64_t threads = 0;
};
constexpr int kPrimitiveBytes = 16384, kPrimitiveThreads = 128;

}  // namespace aerogel::testing
