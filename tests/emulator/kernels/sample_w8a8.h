// Arguments of the sample kernels.
#pragma once

#include <cstdint>

namespace aerogel::emulator {

/// q = round(x / s), s the largest magnitude of the row / 127; x [rows, k].
struct SampleQuantizeArgs {
    const float* x;
    std::int8_t* q;
    float* s;
    std::int64_t k;
};

/// y [m,n] = x [m,k] w [n,k]^T * xs[m] * ws[n] + bias[n]; k a multiple of 16.
struct SampleW8A8Args {
    const std::int8_t *x, *w;
    const float *xs, *ws, *bias;
    float* y;
    int m, n, k;
};
constexpr int kSampleThreads = 256, kSampleTile = 128 * 64, kSampleStages = 3;
constexpr int kSampleShared = kSampleStages * 2 * kSampleTile;

}  // namespace aerogel::emulator
