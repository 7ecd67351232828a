// Arguments of the sample kernels for Hopper.
#pragma once

#include <cstdint>

#include "core/cuda_driver.h"

namespace aerogel::emulator {

/// y [m,n] = x [m,k] w [n,k]^T * xs[m] * ws[n] of int8. Boxes of 128 rows and 128 bytes.
struct SampleHopperArgs {
    cuda::TensorMap x, w;
    const float *xs, *ws;
    float* y;
    int m, n, k;
};
constexpr int kHopperThreads = 384, kHopperTile = 128 * 128, kHopperStages = 4;
constexpr int kHopperShared = kHopperStages * 2 * kHopperTile + 2 * kHopperStages * 8;

/// o [64,128] = p [64,64] v [64,128] of bf16: p from registers, v as it lies (a row is a k). Boxes of 64 rows
/// and columns.
struct SamplePvArgs {
    cuda::TensorMap v;
    const std::uint16_t* p;
    float* o;
};
constexpr int kPvShared = 2 * 64 * 128 + 8;

}  // namespace aerogel::emulator
