// Weights in slabs: the packed form of the CUDA kernels, one for all of them and for all cards. linear_args.h
// says how the bytes lie.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/linear.h"

namespace aerogel::cuda {

/// What is multiplied with what; gemm_weights.cuh has the device's side of each.
enum class Products : std::uint8_t { int8, int4, bf16, bf16_int8, bf16_int4, bf16_fp8, bf16_fp4, fp8 };

/// What every card has for a problem.
Products products_of(const LinearProblem& problem);

/// Where things lie in the packed bytes, at multiples of 256: [parts][slabs][rows][row_bytes], then float32
/// arrays.
struct SlabWeight {
    SlabWeight(const LinearProblem& problem, Products wanted);
    explicit SlabWeight(const LinearProblem& problem) : SlabWeight(problem, products_of(problem)) {}

    Products products;
    std::int64_t row_bytes;    ///< of a slab: 128, 64 or 32
    std::int64_t rows;         ///< n, padded to whole tiles
    std::int64_t step;         ///< columns in 32 bytes of x
    std::int64_t width;        ///< columns per scale
    std::int64_t groups;       ///< ceil(k / width)
    std::int64_t group_steps;  ///< steps per group: columns are padded to whole steps
    std::int64_t slabs;
    std::int64_t parts;  ///< bf16 numbers whose sum is the weight: 1 to 3
    std::size_t part_bytes;
    std::size_t scale;   ///< [groups][rows]; none of float weights
    std::size_t offset;  ///< [groups][rows] in the order of the slabs' rows, of weights with an offset only
    std::size_t bytes;

    bool integers() const { return products == Products::int8 || products == Products::int4; }
    /// x' is bytes, not bf16.
    bool bytes_of_x() const { return integers() || products == Products::fp8; }
    /// Columns of x' in a slab's rows.
    std::int64_t padded_columns() const { return slabs * 4 * step; }
};

/// Fills all of it, in host memory. A group with a NaN or an infinity gets a scale of NaN.
void pack_slabs(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept;
/// The same for Products::fp8.
void pack_fp8_slabs(const LinearProblem& problem, const QuantizedTensor& weight, std::byte* packed) noexcept;

}  // namespace aerogel::cuda
