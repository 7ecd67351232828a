// What the element-wise kernels are given beyond the structs of kernels/elementwise.h and kernels/hadamard.h.
#pragma once

#include <cstdint>

#include "kernels/elementwise.h"
#include "kernels/hadamard.h"

namespace aerogel::cuda {

/// Threads of a block. Kernels of rows give each row to one warp, the others each element to one thread.
constexpr unsigned kElementThreads = 256;

/// Columns that one warp transforms in registers; larger blocks are finished by passes over y.
constexpr std::int64_t kWarpHadamard = 1024;

/// CombineArgs with plain arrays, as device code has no std::array.
struct CombineTerms {
    std::int64_t count = 0;
    int terms = 0;
    double factor[CombineArgs::kMostTerms] = {};
    const float* x[CombineArgs::kMostTerms] = {};
    float* y = nullptr;
};

/// CopyArgs, likewise.
struct CopyAxesArgs {
    std::int64_t count = 0;
    int axes = 0;
    std::int64_t shape[CopyArgs::kMostAxes] = {}, x_strides[CopyArgs::kMostAxes] = {},
                 y_strides[CopyArgs::kMostAxes] = {};
    const void* x = nullptr;
    void* y = nullptr;
};

/// Mean and sum of squared distances of `rows` elements of each channel, one chunk of kGroupNormRows rows
/// after the other; then mean and factor of each group.
struct GroupNormSteps {
    GroupNormArgs call;
    float* parts = nullptr;   ///< [chunks, 2, channels]
    float* groups = nullptr;  ///< [groups, 2]
};

struct HadamardWarpArgs {
    HadamardArgs call;
    float factor = 1.0F;  ///< 1 / sqrt(call.block)
};

/// y[i], y[i + distance] = their sum and their difference; of ConvRot four, up to y[i + 3 * distance].
struct HadamardPassArgs {
    float* y = nullptr;
    std::int64_t y_stride = 0, rows = 0, columns = 0, distance = 0;
};

struct AllFiniteArgs {
    FiniteArgs call;
    int* found = nullptr;  ///< set to 1 at a NaN or an infinity
};

}  // namespace aerogel::cuda
