// 8-bit RGB rows become planes of float32, on the host.
#include "model/image/image_input.h"

#include <vector>

#include "aerogel/error.h"
#include "core/json.h"
#include "model/config_values.h"
#include "model/image/resize.h"

namespace aerogel {
namespace {

constexpr std::int64_t kBicubic = 3;  // PIL.Image.Resampling.BICUBIC

// convert(value, color) for every pixel, a plane per color.
template <typename Convert>
std::vector<float> planes(const Picture& picture, const Convert& convert) {
    std::vector<float> values;
    values.reserve(picture.pixels.size());
    for (std::size_t color = 0; color < 3; ++color) {
        for (std::size_t i = color; i < picture.pixels.size(); i += 3)
            values.push_back(convert(picture.pixels[i], color));
    }
    return values;
}

// A step that this program always does.
void read_done(const JsonNode& json, const char* key) {
    if (json.has(key) && !json.at(key).flag()) json.at(key).fail("true");
}

void read_colors(const JsonNode& json, const char* key, std::array<float, 3>& values, double least) {
    if (!json.has(key)) return;
    const std::vector<JsonNode> items = json.at(key).items("a list of three numbers");
    if (items.size() != values.size()) json.at(key).fail("a list of three numbers");
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>(items[i].number(least, 1e6));
}

Picture with_shortest_edge(const Picture& picture, std::int64_t edge) {
    if (picture.height < 1 || picture.width < 1) throw InvalidArgument("[image] the picture is empty");
    const bool tall = picture.width <= picture.height;
    const auto shorter = static_cast<double>(tall ? picture.width : picture.height);
    const auto longer = static_cast<double>(tall ? picture.height : picture.width);
    const auto other = static_cast<std::int64_t>(static_cast<double>(edge) * longer / shorter);
    return resized(picture, tall ? other : edge, tall ? edge : other, ResizeFilter::bicubic);
}

}  // namespace

Tensor pixels_of(const Picture& picture, std::int64_t height, std::int64_t width) {
    const Picture fitting = resized(picture, height, width, ResizeFilter::lanczos);
    return Tensor::of(
        planes(fitting, [](std::uint8_t value,
                           std::size_t) { return 2.0F * (static_cast<float>(value) / 255.0F) - 1.0F; }),
        {1, 3, 1, height, width});
}

ClipImageInput ClipImageInput::read(const std::filesystem::path& path) {
    const JsonNode json = JsonNode::read(path, "image processor");
    ClipImageInput input;
    for (const char* step : {"do_resize", "do_center_crop", "do_rescale", "do_normalize"})
        read_done(json, step);
    if (json.has("resample")) json.at("resample").whole({kBicubic, kBicubic});
    if (json.has("size")) {
        const JsonNode size = json.at("size");
        if (!size.is_object()) size.fail("an object with shortest_edge");
        input.shortest_edge = size.at("shortest_edge").whole(kSizes);
    }
    if (json.has("crop_size")) {
        const JsonNode size = json.at("crop_size");
        if (!size.is_object()) size.fail("an object with height and width");
        input.crop_height = size.at("height").whole({1, input.shortest_edge});
        input.crop_width = size.at("width").whole({1, input.shortest_edge});
    }
    if (json.has("rescale_factor")) input.rescale_factor = json.at("rescale_factor").number(0.0, 1.0);
    read_colors(json, "image_mean", input.mean, -1e6);
    read_colors(json, "image_std", input.std, 1e-6);
    return input;
}

Tensor ClipImageInput::pixels(std::span<const Picture> pictures) const {
    std::vector<float> values;
    for (const Picture& picture : pictures) {
        const Picture small =
            cropped_to_middle(with_shortest_edge(picture, shortest_edge), crop_height, crop_width);
        const std::vector<float> own = planes(small, [&](std::uint8_t value, std::size_t color) {
            const double scaled = static_cast<double>(value) * rescale_factor;
            return (static_cast<float>(scaled) - mean[color]) / std[color];
        });
        values.insert(values.end(), own.begin(), own.end());
    }
    return Tensor::of(values, {static_cast<std::int64_t>(pictures.size()), 3, crop_height, crop_width});
}

}  // namespace aerogel
