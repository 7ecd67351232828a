// Arguments of the sample product of MX numbers.
#pragma once

#include <cstdint>

namespace aerogel::emulator {

/// o [16,8] = A B^T of one instruction. The operands as its registers: [32][4], [32][2], scales [32].
struct SampleMxArgs {
    const std::uint32_t *a, *b, *scale_a, *scale_b;
    float* o;
    int kind;  ///< 0: mxfp8, 1: mxfp8 by fp4, 2: mxfp4
};

}  // namespace aerogel::emulator
