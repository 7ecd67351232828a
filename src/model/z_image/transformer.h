// The family of diffusers' ZImageTransformer2DModel (Z-Image, arXiv 2511.22699).
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "aerogel/transformer.h"

namespace aerogel {

/// What is quantized unless told otherwise: attention and feed-forward of all blocks, and all attentions.
inline constexpr std::string_view kZImageLayers =
    "{layers,noise_refiner,context_refiner}.*.{attention,feed_forward}.*";
inline constexpr std::string_view kZImageAttentions = "{layers,noise_refiner,context_refiner}.*.attention";

/// From the folder with config.json and diffusion_pytorch_model.safetensors (or its index.json and shards).
/// The image is f32 [batch, in_channels, 1, height, width]; the time 1 - timestep / 1000 and the sign of the
/// velocity are those of ZImagePipeline. Block i of hooks and sparse settings is layers.i, after them come
/// the blocks of the noise refiner, then those of the context refiner, which sees the text alone. IoError /
/// InvalidArgument (missing or misshapen tensor).
std::unique_ptr<Transformer> load_z_image(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace aerogel
