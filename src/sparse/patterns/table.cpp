// Every pattern there is.
#include <array>
#include <string>

#include "aerogel/error.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

constexpr std::array<Pattern, 6> kPatterns = {{
    {HeadType::spatial, raster_order, raster_order, inside_cells, spatial_blocks, nullptr},
    {HeadType::temporal, frame_last_order, frame_last_order, inside_cells, temporal_blocks, nullptr},
    {HeadType::textural, raster_order, checkerboard_order, inside_cells, textural_blocks, nullptr},
    {HeadType::block_mean, windowed_order, windowed_order, pooled_cells, nullptr, block_mean_blocks},
    {HeadType::antidiagonal, nullptr, nullptr, natural_cells, nullptr, antidiagonal_blocks},
    {HeadType::given, nullptr, nullptr, natural_cells, nullptr, nullptr},
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

}  // namespace aerogel
