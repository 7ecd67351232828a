// The encoders of T5 (Raffel et al. 2020; version 1.1 with its gated feed-forward) and UMT5 (Chung et al.
// 2023).
#pragma once

#include <filesystem>
#include <memory>

#include "model/text/text_model.h"

namespace aerogel {

/// As TextModel::load. UMT5: every layer has a relative position bias of its own.
std::unique_ptr<TextModel> load_umt5(const std::filesystem::path& folder, const LoadOptions& options);
/// T5: the bias of the first layer is that of all.
std::unique_ptr<TextModel> load_t5(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace aerogel
