// bfloat16 in memory, as the kernels of one CPU level see it: number_types.h defines functions, which such
// files must not emit.
#pragma once

#include <cstdint>

namespace aerogel {
namespace {

struct Bf16Bits {
    std::uint16_t bits;
};

}  // namespace
}  // namespace aerogel
