// Between videos [batch, channels, frames, height, width] and tokens: one row per patch of pixels or latents.
#pragma once

#include <cstdint>

#include "aerogel/context.h"
#include "aerogel/sparse_attention.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// How a batch of videos is cut: `grid` patches of patch_frames x patch_height x patch_width each.
struct PatchGrid {
    std::int64_t batch = 0;
    LatentShape grid;
    std::int64_t patch_frames = 1;
    std::int64_t patch_height = 1;
    std::int64_t patch_width = 1;

    std::int64_t rows() const { return batch * grid.tokens(); }
    std::int64_t patch_elements() const { return patch_frames * patch_height * patch_width; }
};

/// rows f32 [rows(), channels * patch_elements()], columns ordered (channel, frame, row, column) as the
/// kernel of a Conv3d. Both contiguous.
void patchify(const PatchGrid& patches, const TensorView& video, const MutableView& rows,
              const Context& context);
/// The way back for the output layer, whose columns are ordered (frame, row, column, channel).
void unpatchify(const PatchGrid& patches, const TensorView& rows, const MutableView& video,
                const Context& context);

}  // namespace aerogel
