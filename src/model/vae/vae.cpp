// The table of VAEs, and the checks of their calls.
#include "model/vae/vae.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "aerogel/error.h"
#include "core/json.h"
#include "model/vae/stream.h"

namespace aerogel {
namespace {

constexpr std::array<std::string_view, 4> kVaeClasses = {"AutoencoderKL", "AutoencoderKLFlux2",
                                                         "AutoencoderKLQwenImage", "AutoencoderKLWan"};

}  // namespace

std::span<const std::string_view> vae_classes() {
    return kVaeClasses;
}

std::unique_ptr<Vae> Vae::load(const std::filesystem::path& folder, Device) {
    const JsonNode config = JsonNode::read(folder / "config.json", "vae");
    const std::string& name = config.at("_class_name").word(kVaeClasses);
    throw Unsupported(fmt::format("[vae] {} is not supported yet", name));
}

Shape VaeShape::latents(std::int64_t frames, std::int64_t height, std::int64_t width) const {
    const auto fits = [](std::int64_t size, std::int64_t factor) { return size > 0 && size % factor == 0; };
    if (!fits(height, spatial_factor) || !fits(width, spatial_factor) || frames < 1 ||
        (frames - 1) % temporal_factor != 0 || (!video && frames != 1))
        throw InvalidArgument(fmt::format(
            "[vae] height and width must be multiples of {}, and frames {}, got {} frames of {} x {}",
            spatial_factor, video ? fmt::format("1 more than a multiple of {}", temporal_factor) : "1",
            frames, width, height));
    return {1, channels, 1 + (frames - 1) / temporal_factor, height / spatial_factor, width / spatial_factor};
}

Shape VaeShape::pixels(std::int64_t frames, std::int64_t height, std::int64_t width) const {
    if (frames < 1 || height < 1 || width < 1 || (!video && frames != 1))
        throw InvalidArgument(fmt::format("[vae] latents must have {} and positive sizes, got {} of {} x {}",
                                          video ? "frames" : "one frame", frames, width, height));
    return {1, 3, 1 + (frames - 1) * temporal_factor, height * spatial_factor, width * spatial_factor};
}

Tensor Vae::decode(const TensorView&, const VaeOptions&) const {
    throw Unsupported("[vae] decode is not supported yet");
}

Tensor Vae::encode(const TensorView&, const VaeOptions&) const {
    throw Unsupported("[vae] encode is not supported yet");
}

}  // namespace aerogel
