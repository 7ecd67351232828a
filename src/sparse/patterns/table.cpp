// Every pattern there is.
#include <array>

#include "aerogel/error.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

constexpr std::array<Pattern, 4> kPatterns = {{
    {HeadType::spatial, spatial_layout, spatial_blocks, nullptr},
    {HeadType::temporal, temporal_layout, temporal_blocks, nullptr},
    {HeadType::textural, textural_layout, textural_blocks, nullptr},
    {HeadType::block_mean, block_mean_layout, nullptr, block_mean_blocks},
}};

}  // namespace

std::span<const Pattern> patterns() {
    return kPatterns;
}

const Pattern& pattern_of(HeadType type) {
    for (const Pattern& pattern : kPatterns) {
        if (pattern.type == type) return pattern;
    }
    throw InvalidArgument("[sparse_attention] no pattern for head type " + std::string(to_string(type)));
}

void keep_protected(const SparseGeometry& geometry, BlockGrid& grid) {
    const std::int64_t blocks = geometry.blocks();
    for (std::int64_t row = 0; row < blocks; ++row) {
        for (std::int64_t column = 0; column < blocks; ++column) {
            if (geometry.always_kept(row) || geometry.always_kept(column))
                grid[static_cast<std::size_t>(row * blocks + column)] = 1;
        }
    }
}

}  // namespace aerogel
