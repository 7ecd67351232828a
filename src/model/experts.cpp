// Experts of model_index.json.
#include "model/experts.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/paths.h"

namespace aerogel {

Experts Experts::read(const std::filesystem::path& folder) {
    const auto index = folder / "model_index.json";
    if (!path_exists(index)) return {};
    const JsonNode json = JsonNode::read(index, "pipeline");
    if (!json.has("boundary_ratio")) return {};
    const Experts experts{json.at("boundary_ratio").number(0.0, 1.0)};
    if (!path_exists(folder / folder_of(1) / "config.json")) {
        throw InvalidArgument(fmt::format("{}: boundary_ratio needs a second transformer, but there is no {}",
                                          json.where(), (folder / folder_of(1) / "config.json").string()));
    }
    return experts;
}

}  // namespace aerogel
