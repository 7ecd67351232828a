// Rotations of weights.
#include "quant/algorithms/hadamard.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <random>
#include <system_error>

#include "aerogel/error.h"
#include "ops/hadamard.h"
#include "quant/algorithms/weight_rows.h"

namespace aerogel {

namespace {

constexpr std::int64_t kLargestConvrot = 256;

}  // namespace

std::int64_t rotation_block(std::int64_t columns, RotationShape shape) {
    const bool hadamard = shape.kind == RotationKind::hadamard;
    const std::int64_t block = shape.block;
    if (columns < 1 || (block != -1 && (!is_rotation_block(shape) || columns % block != 0))) {
        throw InvalidArgument(
            fmt::format("[rotate] block must be -1 or a power of {} that divides the {} columns, got {}",
                        hadamard ? "two" : "four", columns, block));
    }
    if (block != -1) return block;
    const std::int64_t largest = columns & -columns;
    if (hadamard) return largest;
    const std::int64_t most = std::min(largest, kLargestConvrot);
    return is_rotation_block({shape.kind, most}) ? most : most / 2;
}

RotationShape parse_rotation(std::string_view text) {
    constexpr std::string_view kName = "convrot";
    RotationShape shape;
    std::string_view number = text;
    if (text.starts_with(kName)) {
        shape = {RotationKind::convrot, -1};
        if (text == kName) return shape;
        number.remove_prefix(text[kName.size()] == ':' ? kName.size() + 1 : 0);
    }
    const char* const end = number.data() + number.size();
    const auto [stop, error] = std::from_chars(number.data(), end, shape.block);
    const bool nothing = shape.kind == RotationKind::convrot && shape.block == 0;
    if (error != std::errc{} || stop != end || number.empty() || nothing) {
        throw InvalidArgument(fmt::format(
            "[rotate] a rotation is a number of columns, convrot or convrot:COLUMNS, got '{}'", text));
    }
    return shape;
}

Rotation::Rotation(std::int64_t columns, RotationShape shape, std::int64_t seed)
    : columns_(columns), shape_{shape.kind, rotation_block(columns, shape)} {
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
    hadamard_rows(values, rotated, shape_, signs_);
    return rotated;
}

}  // namespace aerogel
