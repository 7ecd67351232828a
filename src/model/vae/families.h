// The classes of VAEs: each makes the two halves of its own layers.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "core/json.h"
#include "model/vae/layers.h"
#include "model/vae/vae.h"

namespace aerogel {

/// Encoder or decoder. Where a picture is cut into tiles, those of a decoder begin with the layer `tiled`,
/// and those of an encoder end before it: attention and what is on its level sees whole pictures.
struct VaeHalf {
    VaeLayers layers;
    std::size_t tiled = 0;
    std::size_t places = 0;  ///< of memory
};

/// Layers of a half, one after the other, `last` not among them.
struct LayerSpan {
    std::size_t first, last;
};

struct VaeParts {
    VaeShape shape;
    VaeHalf decoder, encoder;
};

struct VaeFamily {
    std::string_view class_name;
    VaeParts (*load)(const JsonNode& config, Checkpoint& checkpoint);
};

VaeParts load_image_vae(const JsonNode& config, Checkpoint& checkpoint);
VaeParts load_flux2_vae(const JsonNode& config, Checkpoint& checkpoint);
/// Wan's, and Qwen-Image's, which is alike.
VaeParts load_video_vae(const JsonNode& config, Checkpoint& checkpoint);

/// y = x * factor + shift of each channel, as a layer.
std::unique_ptr<VaeLayer> scale_channels(std::span<const float> factor, std::span<const float> shift,
                                         Device device);

/// A list of as many numbers. InvalidArgument.
std::vector<float> read_numbers(const JsonNode& json, std::size_t count, double low, double high);
/// True, or false; InvalidArgument where a key holds something else than these.
void require_word(const JsonNode& json, const char* key, std::string_view only);
/// As read_size, up to `most`: what no VAE has is refused before memory is taken for it.
void read_size(const JsonNode& json, const char* key, std::int64_t most, std::int64_t& value);
inline constexpr std::int64_t kMostLatents = 1024, kMostBlocks = 64, kMostWidth = 8192;
/// A list of positive sizes, up to kMostWidth.
std::vector<std::int64_t> read_size_list(const JsonNode& json);

}  // namespace aerogel
