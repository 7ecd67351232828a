// Between videos [batch, channels, frames, height, width] and tokens: one row per patch of pixels or latents.
#pragma once

#include <cstdint>
#include <string_view>

#include "aerogel/context.h"
#include "aerogel/sparse_attention.h"
#include "aerogel/tensor.h"
#include "aerogel/transformer.h"

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

/// How config.patch_size cuts a video. InvalidArgument unless it is f32 [batch, in_channels, frames, height,
/// width] with sizes above 0 that are multiples of patch_size.
PatchGrid patch_grid(std::string_view family, const TransformerConfig& config, const Tensor& video);

/// The order of a row's columns: (channel, frame, row, column) as in the kernel of a Conv3d, or
/// (frame, row, column, channel).
enum class PatchColumns : std::uint8_t { channels_first, channels_last };

/// rows f32 [rows(), channels * patch_elements()]. Both contiguous.
void patchify(const PatchGrid& patches, PatchColumns columns, const TensorView& video,
              const MutableView& rows, const Context& context);
/// The way back, to as many channels as the rows hold.
Tensor unpatchify(const PatchGrid& patches, PatchColumns columns, const TensorView& rows,
                  const Context& context);

}  // namespace aerogel
