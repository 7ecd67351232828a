// The family of diffusers' QwenImageTransformer2DModel (Qwen-Image, arXiv 2508.02324).
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "aerogel/transformer.h"

namespace aerogel {

/// What is quantized unless told otherwise: attention and feed-forward of all blocks, and all attentions. The
/// modulation stays float, as in Python, though it is a third of the weights; --include chooses it too, and
/// LoadOptions::automatic where memory is short.
inline constexpr std::string_view kQwenImageLayers = "transformer_blocks.*.{attn,img_mlp,txt_mlp}.*";
inline constexpr std::string_view kQwenImageModulation = "transformer_blocks.*.{img_mod,txt_mod}.*";
inline constexpr std::string_view kQwenImageAttentions = "transformer_blocks.*.attn";

/// From the folder with config.json and diffusion_pytorch_model.safetensors (or its index.json and shards).
/// The image is f32 [batch, channels, 1, height, width], packed into tokens as QwenImagePipeline does; the
/// text has no padding. IoError / InvalidArgument (missing or misshapen tensor).
std::unique_ptr<Transformer> load_qwen_image(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace aerogel
