// The family of diffusers' Flux2Transformer2DModel (FLUX.2, Black Forest Labs 2025).
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "aerogel/transformer.h"

namespace aerogel {

/// What is quantized unless told otherwise: attention and feed-forward of all blocks, and all attentions.
inline constexpr std::string_view kFlux2Layers = "*transformer_blocks.*.{attn,ff,ff_context}.*";
inline constexpr std::string_view kFlux2Attentions = "*transformer_blocks.*.attn";

/// From the folder with config.json and diffusion_pytorch_model.safetensors (or its index.json and shards).
/// The latents are those that Flux2KleinPipeline packs, [batch, 128, 1, rows, columns]; position ids of image
/// and text tokens are made as it makes them. IoError / InvalidArgument (missing or misshapen tensor).
std::unique_ptr<Transformer> load_flux2(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace aerogel
