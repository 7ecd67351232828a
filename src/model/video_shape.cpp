// Checks of sizes, and an estimate of what a forward pass takes.
#include "model/video_shape.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "base/memory.h"
#include "core/text.h"

namespace aerogel {
namespace {

std::int64_t checked_extent(const char* name, const std::optional<int>& size, std::int64_t patch) {
    if (!size)
        throw InvalidArgument(
            fmt::format("[generate] {} must be given, the model folder has no default", name));
    if (*size < 1 || *size % patch != 0) {
        throw InvalidArgument(
            fmt::format("[generate] {} must be a positive multiple of {}, got {}", name, patch, *size));
    }
    return *size;
}

// At least: a forward pass, and the video as noise, velocities and the sampler's history.
double least_bytes(const Transformer& model, const Shape& shape) {
    constexpr double kVideos = 5.0;
    const auto& patch = model.config().patch_size;
    const double elements = static_cast<double>(shape[1]) * static_cast<double>(shape[2]) *
                            static_cast<double>(shape[3]) * static_cast<double>(shape[4]);
    const double tokens =
        elements / static_cast<double>(shape[1]) / static_cast<double>(patch[0] * patch[1] * patch[2]);
    return sizeof(float) * kVideos * elements + model.forward_bytes(tokens);
}

void check_memory(const Transformer& model, const Shape& shape) {
    const double needed = least_bytes(model, shape);
    const auto usable = static_cast<double>(usable_memory_bytes());
    if (needed <= usable) return;
    throw InvalidArgument(
        fmt::format("[generate] {} frames of {}x{} need at least {} of memory, but only {} can be used",
                    shape[2], shape[4], shape[3], show_bytes(needed), show_bytes(usable)));
}

}  // namespace

Shape video_shape(const Transformer& model, const SamplingOptions& options) {
    const TransformerConfig& config = model.config();
    if (config.in_channels != config.out_channels) {
        throw Unsupported(fmt::format(
            "[generate] the model takes {} channels and gives {}: image conditioning is not supported",
            config.in_channels, config.out_channels));
    }
    Shape shape = {1, config.in_channels, checked_extent("frames", options.frames, config.patch_size[0]),
                   checked_extent("height", options.height, config.patch_size[1]),
                   checked_extent("width", options.width, config.patch_size[2])};
    check_memory(model, shape);
    return shape;
}

}  // namespace aerogel
