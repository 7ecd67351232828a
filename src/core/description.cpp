// Quantization descriptions: liberal reading, exact writing, file names.
#include "aerogel/description.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "core/atomic_file.h"
#include "core/input_file.h"
#include "core/json.h"
#include "core/text.h"

namespace aerogel {
namespace {

constexpr const char* kTypeKey = "model_quant_type";

std::string name_with(const char* begin, const std::string& quant_type, int rank, const char* extension) {
    return begin + lower_case(quant_type) + (rank >= 0 ? "_" + std::to_string(rank) : "") + extension;
}

// The type becomes part of a file name: no separators, no "..".
bool is_plain_word(const std::string& text) {
    return !text.empty() && text.size() <= 100 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
               c == '-';
    });
}

// "_3" of "quant_model_description_w8a8_3.json", or an empty string.
std::string rank_suffix(const std::filesystem::path& description_path) {
    const std::string stem = description_path.stem().string();
    const std::size_t bar = stem.rfind('_');
    if (bar == std::string::npos || bar + 1 == stem.size()) return {};
    const bool digits = std::all_of(stem.begin() + static_cast<std::ptrdiff_t>(bar) + 1, stem.end(),
                                    [](char c) { return c >= '0' && c <= '9'; });
    return digits ? stem.substr(bar) : "";
}

}  // namespace

QuantDescription QuantDescription::parse(std::string_view text, const std::string& where) {
    QuantDescription description;
    bool has_type = false;
    for (JsonString& item : read_json_strings(text, where)) {
        if (item.nested) continue;
        if (item.key == kTypeKey) {
            description.model_quant_type = std::move(item.value);
            has_type = true;
        } else {
            description.entries.emplace_back(std::move(item.key), upper_case(item.value));
        }
    }
    if (!has_type) {
        throw InvalidArgument(where + ": must have a string under the key '" + kTypeKey + "', it has none");
    }
    if (!is_plain_word(description.model_quant_type)) {
        throw InvalidArgument(where + ": " + kTypeKey +
                              " must consist of letters, digits, '_' and '-', got " +
                              in_quotes(description.model_quant_type));
    }
    return description;
}

QuantDescription QuantDescription::read(const std::filesystem::path& path) {
    return parse(read_text_file(path, "description", kJsonSizeLimit), "[description] " + path.string());
}

void QuantDescription::write(const std::filesystem::path& path, PairLayout layout) const {
    nlohmann::ordered_json json = nlohmann::ordered_json::object();
    auto& items = json.get_ref<nlohmann::ordered_json::object_t&>();
    const bool first = layout == PairLayout::v0;
    if (!first && layout != PairLayout::v1)
        throw InvalidArgument("[description] " + path.string() + ": a description is of layout v0 or v1");
    if (first) items.emplace_back(kTypeKey, model_quant_type);
    for (const auto& [name, type] : entries) items.emplace_back(name, type);
    if (!first) items.emplace_back(kTypeKey, model_quant_type);
    std::string text;
    try {
        text = json.dump(first ? 2 : 4);
    } catch (const nlohmann::json::exception&) {
        throw InvalidArgument("[description] " + path.string() + ": a name or type is not valid UTF-8");
    }
    parse(text, "[description] " + path.string());  // duplicate names, unusable types
    write_file_atomically(path, text);
}

std::string QuantDescription::type_of(const std::string& tensor_name) const {
    const auto found = std::find_if(entries.begin(), entries.end(),
                                    [&](const auto& entry) { return entry.first == tensor_name; });
    return found == entries.end() ? "" : found->second;
}

std::string description_file_name(const std::string& quant_type, int rank) {
    return name_with("quant_model_description_", quant_type, rank, ".json");
}

std::string weight_file_name(const std::string& quant_type, int rank) {
    return name_with("quant_model_weight_", quant_type, rank, ".safetensors");
}

std::filesystem::path weight_path_of(const std::filesystem::path& description_path,
                                     const QuantDescription& description) {
    return description_path.parent_path() /
           name_with("quant_model_weight_", description.model_quant_type + rank_suffix(description_path), -1,
                     ".safetensors");
}

}  // namespace aerogel
