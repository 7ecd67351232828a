// Temporal heads see the same small region in every frame: a band once the tokens stand in h w t order.
#include "sparse/patterns/band.h"
#include "sparse/patterns/pattern.h"

namespace aerogel {
namespace {

BlockGrid temporal_blocks(const SparseGeometry& geometry) {
    // The protected first frame stands in front, but distances are those of the full h w t order.
    const std::int64_t frames = geometry.latent().frames;
    const std::int64_t first = geometry.protect_first_frame ? 1 : 0;
    return band_blocks(geometry, [&](std::int64_t place) {
        const std::int64_t free_place = place - geometry.protected_tokens();
        return free_place / (frames - first) * frames + first + free_place % (frames - first);
    });
}

}  // namespace

namespace head_patterns {
extern const HeadPattern kTemporal = {.name = "temporal",
                                      .q_order = frame_last_order,
                                      .k_order = frame_last_order,
                                      .cells = inside_cells,
                                      .static_blocks = temporal_blocks};
}  // namespace head_patterns

}  // namespace aerogel
