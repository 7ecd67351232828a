// Rotary position tables of tokens that lie along several axes (RoFormer, arXiv 2104.09864; three axes as in
// Wan, Z-Image and Qwen-Image).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "aerogel/sparse_attention.h"
#include "aerogel/tensor.h"

namespace aerogel {

struct RotaryTable {
    Tensor cos;  ///< f32 [tokens, head_dim / 2]
    Tensor sin;
};

/// In which steps a model computes the angle position * theta^(-2i/dim): far from the origin the roundings of
/// float32 are visible, and the models were trained with them.
enum class AngleSteps : std::uint8_t {
    wide,     ///< in double
    rounded,  ///< in double, the angle then rounded to float32
    single    ///< every step in float32
};

/// The pairs of a head go to the axes in this order.
struct RotaryAxes {
    std::vector<std::int64_t> dims;  ///< twice the pairs of each axis; their sum is the head's dimension
    double theta = 10000.0;
    AngleSteps steps = AngleSteps::wide;
};

/// `positions` holds one number per axis for each token, token after token.
RotaryTable rotary_table(const RotaryAxes& axes, std::span<const std::int64_t> positions, Device device);

/// Appends the positions of a video's tokens, (frame, row, column) each, counted from `start`.
void add_grid_positions(const LatentShape& grid, const std::array<std::int64_t, 3>& start,
                        std::vector<std::int64_t>& positions);

}  // namespace aerogel
