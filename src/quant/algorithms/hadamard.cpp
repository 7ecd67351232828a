// Rotations of weights.
#include "quant/algorithms/hadamard.h"

#include <fmt/format.h>

#include <bit>
#include <random>

#include "aerogel/error.h"
#include "ops/hadamard.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {

std::int64_t rotation_block(std::int64_t columns, std::int64_t block) {
    const bool power = block > 0 && std::has_single_bit(static_cast<std::uint64_t>(block));
    if (columns < 1 || (block != -1 && (!power || columns % block != 0))) {
        throw InvalidArgument(
            fmt::format("[rotate] block must be -1 or a power of two that divides the {} columns, got {}",
                        columns, block));
    }
    return block == -1 ? columns & -columns : block;
}

Rotation::Rotation(std::int64_t columns, std::int64_t block, std::int64_t seed)
    : columns_(columns), block_(rotation_block(columns, block)) {
    if (seed < -1 || seed > UINT32_MAX) {
        throw InvalidArgument(fmt::format("[rotate] the seed must be -1 or of 32 bits, got {}", seed));
    }
    signs_ = Tensor(DType::f32, {columns});
    std::mt19937 bits(static_cast<std::uint32_t>(seed));
    for (std::int64_t k = 0; k < columns; ++k) {
        signs_.mutable_as<float>()[k] = seed == -1 || bits() % 2 == 1 ? 1.0F : -1.0F;
    }
}

Tensor Rotation::rotated_inputs(const TensorView& inputs) const {
    const Tensor values = float_inputs("rotate", inputs, columns_);
    Tensor rotated(DType::f32, values.shape());
    hadamard_rows(values, rotated, block_, signs_);
    return rotated;
}

}  // namespace aerogel
