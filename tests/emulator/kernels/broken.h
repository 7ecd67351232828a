// Small kernels with one mistake each, and the same without it.
#pragma once

namespace aerogel::emulator {

struct BrokenArgs {
    float* global;  ///< 1024 numbers
    int broken;     ///< 0: the right kernel
    int unused[4];
};
using BrokenKernel = void (*)(BrokenArgs);

}  // namespace aerogel::emulator
