// Decoder-only language models as text encoders: Qwen3 (arXiv 2505.09388) and the language part of Qwen2.5-VL
// (arXiv 2502.13923). RMSNorm, grouped heads, rotary embedding by halves, SwiGLU; the head is not used.
#pragma once

#include <filesystem>
#include <memory>

#include "model/text/text_model.h"

namespace aerogel {

/// As TextModel::load.
std::unique_ptr<TextModel> load_qwen3(const std::filesystem::path& folder, const LoadOptions& options);
/// The same; the vision tower is left aside.
std::unique_ptr<TextModel> load_qwen2_5_vl(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace aerogel
