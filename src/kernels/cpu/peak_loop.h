// The loop of every peak kernel that adds in vector registers. Included by sources built for one CPU level;
// everything is local to the including file.
#pragma once

#include <cstdint>

namespace aerogel {
namespace {

/// Here the compiler has to have the value, in a register.
template <typename V>
[[gnu::always_inline]] inline void hold(V& value) {
    __asm__ volatile("" : "+v"(value));
}

/// sum = step(sum) for kChains independent sums from `zero` on, in every round: enough of them to hide what
/// one addition waits for. The compiler may leave out no round.
template <int kChains, typename V, typename Step>
void run_chains(std::int64_t rounds, V zero, const Step& step) {
    V sums[kChains];
#pragma GCC unroll 16
    for (V& sum : sums) sum = zero;
    for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (V& sum : sums) sum = step(sum);
#pragma GCC unroll 16
        for (V& sum : sums) hold(sum);
    }
}

}  // namespace
}  // namespace aerogel
