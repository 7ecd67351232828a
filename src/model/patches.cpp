// Cutting videos into patch rows and putting them together again: copies between two orders of the same axes.
#include "model/patches.h"

#include <array>
#include <utility>

#include "core/views.h"
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

// The video seen with its axes in another order.
template <typename View>
View in_order(const View& video, const PatchAxes& axes, const std::array<std::size_t, 8>& order) {
    Shape shape, strides;
    for (const std::size_t axis : order) {
        shape.push_back(axes.sizes[axis]);
        strides.push_back(axes.strides[axis]);
    }
    return part_of(video, 0, std::move(shape), std::move(strides));
}

}  // namespace

void patchify(const PatchGrid& patches, const TensorView& video, const MutableView& rows,
              const Context& context) {
    const TensorView from = in_order(video, axes_of(patches, video), {0, 2, 4, 6, 1, 3, 5, 7});
    copy(from, reshaped(rows, from.shape), context);
}

void unpatchify(const PatchGrid& patches, const TensorView& rows, const MutableView& video,
                const Context& context) {
    const MutableView to = in_order(video, axes_of(patches, video), {0, 2, 4, 6, 3, 5, 7, 1});
    copy(reshaped(rows, to.shape), to, context);
}

}  // namespace aerogel
