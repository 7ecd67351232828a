// Experts of model_index.json.
#include "model/experts.h"

#include <fmt/format.h>

#include <string>

#include "aerogel/error.h"

namespace aerogel {

Experts Experts::read(const ComponentList& components) {
    const std::optional<JsonNode>& index = components.index();
    if (!index || !index->has("boundary_ratio")) return {};
    const Experts experts{index->at("boundary_ratio").number(0.0, 1.0)};
    if (const std::string why = components.why_not({folder_of(1)}); !why.empty())
        throw InvalidArgument(
            fmt::format("{}: boundary_ratio needs a second transformer, but {}", index->where(), why));
    return experts;
}

void Experts::check_alike(const TransformerConfig& first, const TransformerConfig& second,
                          const std::filesystem::path& folder) {
    const auto same = [&](const char* key, const std::string& wanted, const std::string& got) {
        if (wanted == got) return;
        throw InvalidArgument(fmt::format("[pipeline] {}: {} must be {} as in {}, got {}",
                                          (folder / folder_of(1) / "config.json").string(), key, wanted,
                                          folder_of(0), got));
    };
    same("patch_size", to_string(first.patch_size), to_string(second.patch_size));
    same("in_channels", std::to_string(first.in_channels), std::to_string(second.in_channels));
    same("out_channels", std::to_string(first.out_channels), std::to_string(second.out_channels));
    same("text_dim", std::to_string(first.text_dim), std::to_string(second.text_dim));
}

}  // namespace aerogel
