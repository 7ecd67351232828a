// Cutting videos into patch rows and putting them together again: copies between two orders of the same axes.
#include "model/patches.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "aerogel/error.h"
#include "core/views.h"
#include "model/input_shapes.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

// The axes of a video cut into patches. A batch of videos lies in memory as (batch, channel, frame, patch
// frame, row, patch row, column, patch column).
struct PatchAxes {
    Shape sizes, strides;
};

PatchAxes axes_of(const PatchGrid& p, const TensorView& video) {
    const std::int64_t channels = video.dim(1), row = video.dim(4), frame = video.dim(3) * row;
    const std::int64_t channel = video.dim(2) * frame;
    return {{p.batch, channels, p.grid.frames, p.patch_frames, p.grid.height, p.patch_height, p.grid.width,
             p.patch_width},
            {channels * channel, channel, p.patch_frames * frame, frame, p.patch_height * row, row,
             p.patch_width, 1}};
}

// The video seen with its axes in the order of the rows.
template <typename View>
View in_order(const View& video, const PatchAxes& axes, PatchColumns columns) {
    static constexpr std::array<std::size_t, 8> kChannelsFirst = {0, 2, 4, 6, 1, 3, 5, 7};
    static constexpr std::array<std::size_t, 8> kChannelsLast = {0, 2, 4, 6, 3, 5, 7, 1};
    const auto& order = columns == PatchColumns::channels_first ? kChannelsFirst : kChannelsLast;
    Shape shape, strides;
    for (const std::size_t axis : order) {
        shape.push_back(axes.sizes[axis]);
        strides.push_back(axes.strides[axis]);
    }
    return part_of(video, 0, std::move(shape), std::move(strides));
}

}  // namespace

PatchGrid patch_grid(std::string_view family, const TransformerConfig& config, const Tensor& video) {
    check_shape(family, "hidden_states", video, {-1, config.in_channels, -1, -1, -1});
    const auto& patch = config.patch_size;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        if (video.dim(axis + 2) < 1 || video.dim(axis + 2) % patch[axis] != 0) {
            throw InvalidArgument(
                fmt::format("[{}] hidden_states must be multiples of patch_size [{},{},{}], got {}", family,
                            patch[0], patch[1], patch[2], video.describe()));
        }
    }
    if (video.dim(0) < 1)
        throw InvalidArgument(fmt::format("[{}] the batch is empty, got {}", family, video.describe()));
    const LatentShape grid{video.dim(2) / patch[0], video.dim(3) / patch[1], video.dim(4) / patch[2]};
    return {video.dim(0), grid, patch[0], patch[1], patch[2]};
}

void patchify(const PatchGrid& patches, PatchColumns columns, const TensorView& video,
              const MutableView& rows, const Context& context) {
    const TensorView from = in_order(video, axes_of(patches, video), columns);
    copy(from, reshaped(rows, from.shape), context);
}

Tensor unpatchify(const PatchGrid& patches, PatchColumns columns, const TensorView& rows,
                  const Context& context) {
    Tensor video(
        DType::f32,
        {patches.batch, rows.dim(1) / patches.patch_elements(), patches.grid.frames * patches.patch_frames,
         patches.grid.height * patches.patch_height, patches.grid.width * patches.patch_width},
        rows.device);
    const MutableView to = in_order(video.mutable_view(), axes_of(patches, video), columns);
    copy(reshaped(rows, to.shape), to, context);
    return video;
}

}  // namespace aerogel
