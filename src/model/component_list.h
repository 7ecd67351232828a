// Which components a pipeline folder has: what model_index.json says of them, and what is there.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"

namespace aerogel {

/// A component's folder and a file that is in it at the least; the folder alone where `file` is empty.
struct ComponentFile {
    std::string_view name;
    std::string_view file = "config.json";
};

class ComponentList {
  public:
    /// InvalidArgument when model_index.json is no object of JSON.
    explicit ComponentList(std::filesystem::path folder);

    /// nullopt: the folder has no model_index.json.
    const std::optional<JsonNode>& index() const { return index_; }
    std::filesystem::path path_of(const ComponentFile& part) const { return folder_ / part.name / part.file; }
    /// Whether it is used: it is there, and model_index.json does not say that the pipeline does without it
    /// (null, or [null, null] as diffusers writes), which counts more than a folder.
    bool has(const ComponentFile& part) const { return why_not(part).empty(); }
    /// Empty, or why it is not used.
    std::string why_not(const ComponentFile& part) const;
    /// model_index.json names a class for it.
    bool lists(std::string_view name) const;
    bool does_without(std::string_view name) const;

  private:
    std::filesystem::path folder_;
    std::optional<JsonNode> index_;
};

}  // namespace aerogel
