// Rotations of the columns of a weight and of a layer's input: which orthogonal matrix it is.
// layer: base
#pragma once

#include <cstdint>
#include <string_view>

namespace aerogel {

/// R consists of equal blocks along the diagonal, after a factor per column.
enum class RotationKind : std::uint8_t {
    hadamard,  ///< H / sqrt(block), Sylvester's order, block a power of two. Ashkboos et al., "QuaRot" (2024)
    /// The Kronecker power of the regular matrix [[1,1,1,-1],[1,1,-1,1],[1,-1,1,1],[-1,1,1,1]] / 2, block a
    /// power of four: no column of it is constant, so that no mean is gathered in one channel. ConvRot
    /// (arXiv 2512.03673), as ComfyUI has it.
    convrot
};

/// "hadamard" or "convrot".
constexpr std::string_view to_string(RotationKind kind) {
    return kind == RotationKind::hadamard ? "hadamard" : "convrot";
}

/// The blocks of R.
struct RotationShape {
    RotationKind kind = RotationKind::hadamard;
    std::int64_t block = 1;

    bool operator==(const RotationShape&) const = default;
};

/// A block that the kind has: a power of two, or of four.
constexpr bool is_rotation_block(RotationShape shape) {
    const auto block = static_cast<std::uint64_t>(shape.block);
    const bool power = shape.block > 0 && (block & (block - 1)) == 0;
    return power && (shape.kind == RotationKind::hadamard || (block & 0x5555555555555555U) != 0);
}

}  // namespace aerogel
