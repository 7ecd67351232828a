// Kernels of the group-wise Hadamard rotation of rows: what smooths outliers of activations online.
#pragma once

#include <cstdint>
#include <string_view>

namespace aerogel {

/// y[r, g*block + i] = 1/sqrt(block) * sum_j (-1)^popcount(i & j) * signs[g*block + j] * x[r, g*block + j]:
/// the Walsh-Hadamard transform (Sylvester's order) of each group of `block` columns. x and y do not overlap.
struct HadamardArgs {
    std::int64_t rows = 0;
    std::int64_t columns = 0;  ///< a multiple of block
    std::int64_t block = 1;    ///< a power of two
    const float* x = nullptr;
    std::int64_t x_stride = 0;
    float* y = nullptr;
    std::int64_t y_stride = 0;
    const float* signs = nullptr;  ///< [columns] of +-1; null: all +1
    void* stream = nullptr;        ///< of the device (Context::stream)
};

struct HadamardKernel {
    std::string_view name;  ///< "cpu.avx2.hadamard"
    void (*run)(const HadamardArgs& args) noexcept;
};

}  // namespace aerogel
