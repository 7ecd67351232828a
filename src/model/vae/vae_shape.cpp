// Sizes of latents and pixels, and what the classes of VAEs share.
#include <fmt/format.h>

#include "aerogel/error.h"
#include "model/config_values.h"
#include "model/vae/families.h"

namespace aerogel {

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

std::unique_ptr<VaeLayer> scale_channels(std::span<const float> factor, std::span<const float> shift,
                                         Device device) {
    const auto channels = static_cast<std::int64_t>(factor.size());
    std::vector<float> diagonal(factor.size() * factor.size(), 0.0F);
    for (std::size_t i = 0; i < factor.size(); ++i) diagonal[i * (factor.size() + 1)] = factor[i];
    const ConvolutionSizes sizes = {channels, channels, {1, 1, 1}};
    return std::make_unique<ConvolutionLayer>(
        VaeConvolution(sizes, Tensor::of(diagonal, {channels, channels, 1, 1}), Tensor::of(shift, {channels}),
                       {}, device),
        ConvolutionForm{});
}

std::vector<float> read_numbers(const JsonNode& json, std::size_t count, double low, double high) {
    const std::string wanted = fmt::format("a list of {} numbers", count);
    std::vector<float> numbers;
    for (const JsonNode& item : json.items(wanted))
        numbers.push_back(static_cast<float>(item.number(low, high)));
    if (numbers.size() != count) json.fail(wanted);
    return numbers;
}

void require_word(const JsonNode& json, const char* key, std::string_view only) {
    if (json.has(key)) json.at(key).word({&only, 1});
}

void read_size(const JsonNode& json, const char* key, std::int64_t most, std::int64_t& value) {
    if (json.has(key)) value = json.at(key).whole({1, most});
}

std::vector<std::int64_t> read_size_list(const JsonNode& json) {
    constexpr std::size_t kMost = 8;
    const std::string wanted = fmt::format("a list of 1 to {} sizes", kMost);
    std::vector<std::int64_t> sizes;
    for (const JsonNode& item : json.items(wanted)) sizes.push_back(item.whole({1, kMostWidth}));
    if (sizes.empty() || sizes.size() > kMost) json.fail(wanted);
    return sizes;
}

}  // namespace aerogel
