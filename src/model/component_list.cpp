// Reading the entries of components in model_index.json: [library, class].
#include "model/component_list.h"

#include <fmt/format.h>

#include <utility>

#include "core/paths.h"

namespace aerogel {

ComponentList::ComponentList(std::filesystem::path folder) : folder_(std::move(folder)) {
    const std::filesystem::path path = folder_ / "model_index.json";
    if (path_exists(path)) index_ = JsonNode::read(path, "pipeline");
}

std::string ComponentList::why_not(const ComponentFile& part) const {
    if (does_without(part.name))
        return fmt::format("{}: {} is {}", index_->where(), part.name, index_->at(part.name).json().dump());
    const std::filesystem::path path = path_of(part);
    if (path_exists(path)) return {};
    const std::string absent = fmt::format("{} does not exist", path.string());
    return lists(part.name) ? fmt::format("{} lists {}, but {}", index_->where(), part.name, absent) : absent;
}

bool ComponentList::lists(std::string_view name) const {
    return index_ && index_->contains(name) && !does_without(name);
}

bool ComponentList::does_without(std::string_view name) const {
    if (!index_ || !index_->contains(name)) return false;
    const nlohmann::json& entry = index_->at(name).json();
    return entry.is_null() || (entry.is_array() && entry.size() == 2 && entry[1].is_null());
}

}  // namespace aerogel
