// The family of diffusers' WanTransformer3DModel.
#pragma once

#include <filesystem>
#include <memory>

#include "aerogel/transformer.h"

namespace aerogel {

/// From the folder with config.json and diffusion_pytorch_model.safetensors (or its index.json and shards).
/// IoError / InvalidArgument (missing or misshapen tensor).
std::unique_ptr<Transformer> load_wan(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace aerogel
