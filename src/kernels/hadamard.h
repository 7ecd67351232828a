// Kernels of the group-wise Hadamard rotation of rows: what smooths outliers of activations online.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "aerogel/rotation.h"

namespace aerogel {

/// y[r, g*block + i] = 1/sqrt(block) * sum_j h[i,j] * signs[g*block + j] * x[r, g*block + j], in float32. h
/// is
/// (-1)^popcount(i & j), Sylvester's order, or the Kronecker power of ConvRot's matrix (aerogel/rotation.h).
/// x and y do not overlap. All CPU rows give the same bits: x * (1/sqrt(block) * signs) first, then
///   hadamard: at distances 1, 2, 4 ... a + b and a - b
///   convrot:  at distances 1, 4, 16 ... of four values (a+b)+(c-d), (a+b)-(c-d), (a-b)+(c+d), (c+d)-(a-b)
struct HadamardArgs {
    std::int64_t rows = 0;
    std::int64_t columns = 0;  ///< a multiple of block
    std::int64_t block = 1;    ///< a power of two, of four for convrot
    const float* x = nullptr;
    std::int64_t x_stride = 0;
    float* y = nullptr;
    std::int64_t y_stride = 0;
    const float* signs = nullptr;  ///< [columns] of +-1 (or other factors); null: all +1
    void* stream = nullptr;        ///< of the device (Context::stream)
    RotationKind kind = RotationKind::hadamard;
};

/// What the choice of a kernel depends on.
struct RotationProblem {
    RotationKind kind = RotationKind::hadamard;

    /// "float32 rows", "float32 rows by convrot".
    std::string describe() const;
};

struct HadamardKernel {
    std::string_view name;  ///< "cpu.avx2.hadamard"
    void (*run)(const HadamardArgs& args) noexcept;
    bool convrot = false;  ///< takes that kind as well

    /// Empty, or why this kernel refuses the problem.
    std::string why_not(const RotationProblem& problem) const;
};

/// What a kernel of another operation rotates rows with on their way; `factors` [columns] or null.
struct RowRotation {
    RotationShape shape = {RotationKind::hadamard, 0};  ///< a block of 0: none
    const float* factors = nullptr;
};

}  // namespace aerogel
