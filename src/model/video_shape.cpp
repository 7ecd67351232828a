// Checks of sizes, and an estimate of what a forward pass takes.
#include "model/video_shape.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "base/memory.h"
#include "core/text.h"

namespace aerogel {
namespace {

/// Whole multiples, plus `more`, that a size may be.
struct Multiple {
    std::int64_t of = 1;
    std::int64_t more = 0;
};

std::int64_t checked_size(const char* name, const std::optional<int>& size, const Multiple& multiple) {
    if (!size)
        throw InvalidArgument(
            fmt::format("[generate] {} must be given, the model folder has no default", name));
    if (*size < 1 || *size % multiple.of != multiple.more % multiple.of) {
        if (multiple.of == 1)
            throw InvalidArgument(fmt::format("[generate] {} must be positive, got {}", name, *size));
        throw InvalidArgument(multiple.more == 0
                                  ? fmt::format("[generate] {} must be a positive multiple of {}, got {}",
                                                name, multiple.of, *size)
                                  : fmt::format("[generate] {} must be {} more than a multiple of {}, got {}",
                                                name, multiple.more, multiple.of, *size));
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

// `size`: frames, height and width of what needs so many bytes.
void check_memory(const Shape& size, double needed) {
    const auto usable = static_cast<double>(usable_memory_bytes());
    if (needed <= usable) return;
    throw InvalidArgument(
        fmt::format("[generate] {} frames of {}x{} need at least {} of memory, but only {} can be used",
                    size[0], size[2], size[1], show_bytes(needed), show_bytes(usable)));
}

}  // namespace

Shape sample_size(const SamplingOptions& options, const VaeShape* vae, std::span<const std::int64_t> patch) {
    const std::int64_t side = vae != nullptr ? vae->spatial_factor : 1;
    // One frame of latents is the first of the video, every other one is temporal_factor frames.
    const Multiple frames = vae == nullptr ? Multiple{patch[0], 0}
                            : vae->video   ? Multiple{vae->temporal_factor * patch[0], 1}
                                           : Multiple{1, 0};
    const Shape size = {checked_size("frames", options.frames, frames),
                        checked_size("height", options.height, {side * patch[1], 0}),
                        checked_size("width", options.width, {side * patch[2], 0})};
    if (vae == nullptr) return size;
    if (!vae->video && size[0] != 1) {
        throw InvalidArgument(
            fmt::format("[generate] this model makes pictures: frames must be 1, got {}", size[0]));
    }
    const Shape latents = vae->latents(size[0], size[1], size[2]);
    return {latents[2], latents[3], latents[4]};
}

void check_pixel_memory(const SamplingOptions& options) {
    const double pixels = static_cast<double>(*options.frames) * *options.height * *options.width;
    check_memory({*options.frames, *options.height, *options.width}, 2 * 3 * sizeof(float) * pixels);
}

void check_channels(const TransformerConfig& config, const VaeShape* vae, std::int64_t joined) {
    if (vae != nullptr && vae->channels != config.out_channels) {
        throw InvalidArgument(
            fmt::format("[generate] the model gives {} channels, but the latents of the VAE have {}",
                        config.out_channels, vae->channels));
    }
    if (config.in_channels != config.out_channels + joined) {
        throw InvalidArgument(fmt::format(
            "[generate] the model takes {} channels and gives {}; a given picture is {} channels: {}",
            config.in_channels, config.out_channels, joined,
            joined == 0 ? "an image-to-video model needs one (image)" : "this model takes none"));
    }
}

Shape sample_shape(const Transformer& model, const Shape& size) {
    const TransformerConfig& config = model.config();
    const Shape shape = {1, config.out_channels, size[0], size[1], size[2]};
    check_memory(size, least_bytes(model, shape));
    return shape;
}

}  // namespace aerogel
