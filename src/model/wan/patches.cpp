// Cutting videos into patch rows and putting them together again.
#include "model/wan/patches.h"

#include <algorithm>

namespace aerogel {
namespace {

// One line of pixels inside a patch: where it lies in the video and in the patch.
struct PatchLine {
    std::int64_t row;  // which patch
    std::int64_t channel;
    std::int64_t line;  // (frame, row) inside the patch, flattened
    std::int64_t video_offset;
};

template <typename Visit>
void for_each_line(const PatchGrid& p, std::int64_t channels, const Visit& visit) {
    const std::int64_t width = p.grid.width * p.patch_width;
    const std::int64_t height = p.grid.height * p.patch_height;
    const std::int64_t frames = p.grid.frames * p.patch_frames;
    std::int64_t offset = 0;
    for (std::int64_t plane = 0; plane < p.batch * channels * frames; ++plane) {
        const std::int64_t frame = plane % frames;
        const std::int64_t channel = plane / frames % channels;
        const std::int64_t item = plane / frames / channels;
        for (std::int64_t y = 0; y < height; ++y) {
            const std::int64_t grid_row =
                (item * p.grid.frames + frame / p.patch_frames) * p.grid.height + y / p.patch_height;
            const std::int64_t line = frame % p.patch_frames * p.patch_height + y % p.patch_height;
            for (std::int64_t x = 0; x < p.grid.width; ++x) {
                visit(PatchLine{grid_row * p.grid.width + x, channel, line, offset + x * p.patch_width});
            }
            offset += width;
        }
    }
}

}  // namespace

void patchify(const PatchGrid& patches, const TensorView& video, float* rows) {
    const float* from = video.as<float>();
    const std::int64_t channels = video.dim(1);
    const std::int64_t width = patches.patch_width;
    const std::int64_t columns = channels * patches.patch_elements();
    for_each_line(patches, channels, [&](const PatchLine& at) {
        const std::int64_t column = at.channel * patches.patch_elements() + at.line * width;
        std::copy_n(from + at.video_offset, width, rows + at.row * columns + column);
    });
}

void unpatchify(const PatchGrid& patches, const float* rows, const MutableView& video) {
    auto* to = video.as<float>();
    const std::int64_t channels = video.dim(1);
    const std::int64_t columns = channels * patches.patch_elements();
    for_each_line(patches, channels, [&](const PatchLine& at) {
        const float* from = rows + at.row * columns + at.line * patches.patch_width * channels + at.channel;
        for (std::int64_t x = 0; x < patches.patch_width; ++x) to[at.video_offset + x] = from[x * channels];
    });
}

}  // namespace aerogel
