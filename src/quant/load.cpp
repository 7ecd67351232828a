// Finding the files and the layers of a quantized pair.
#include "quant/load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <utility>

#include "aerogel/error.h"
#include "core/paths.h"
#include "quant/pair_switch.h"
#include "quant/schemes.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kStart = "quant_model_description";

// "stem_12" with another rank instead of 12; "stem" with a rank added.
fs::path with_rank(const fs::path& path, int rank) {
    if (rank < 0) return path;
    std::string stem = path.stem().string();
    std::size_t digits = stem.size();
    while (digits > 0 && std::isdigit(static_cast<unsigned char>(stem[digits - 1])) != 0) --digits;
    const bool has_rank = digits < stem.size() && digits > 0 && stem[digits - 1] == '_';
    stem = (has_rank ? stem.substr(0, digits) : stem + "_") + std::to_string(rank);
    return path.parent_path() / (stem + path.extension().string());
}

// The one description in a folder (of that rank, if one is wanted).
fs::path description_in(const fs::path& folder, int rank) {
    std::vector<std::string> found, others;
    for (const fs::path& path : folder_entries(folder)) {
        const std::string name = path.filename().string();
        if (!name.starts_with(kStart) || path.extension() != ".json") continue;
        const bool wanted = rank < 0 || with_rank(path, rank) == path;
        (wanted ? found : others).push_back(name);
    }
    std::sort(found.begin(), found.end());
    if (found.size() == 1) return folder / found.front();
    const std::string wanted = rank < 0 ? "" : fmt::format(" of rank {}", rank);
    if (found.empty() && !others.empty()) {
        std::sort(others.begin(), others.end());
        throw IoError(fmt::format("[quantize] {} does not exist; there are: {}",
                                  with_rank(folder / others.front(), rank).string(),
                                  fmt::join(others, ", ")));
    }
    if (found.empty()) {
        throw IoError(fmt::format("[quantize] {} has no {}*.json{}", folder.string(), kStart, wanted));
    }
    throw InvalidArgument(fmt::format("[quantize] {} has {} descriptions{}, name one of them: {}",
                                      folder.string(), found.size(), wanted, fmt::join(found, ", ")));
}

// Read by find_attentions().
bool is_attention_key(std::string_view key) {
    return key.ends_with(".quant_type") || key.find(".fa_") != std::string_view::npos ||
           key.find(".fa3_") != std::string_view::npos;
}

}  // namespace

std::vector<std::string> tensors_of(const QuantizedLayer& layer) {
    std::vector<std::string> names = {layer.prefix + ".weight", layer.prefix + ".bias"};
    for (const std::string_view tensor : layer_tensors()) {
        names.push_back(layer.prefix + "." + std::string(tensor));
    }
    for (const char* tensor : {".div.mul_scale", ".svd_lowrank_l1", ".svd_lowrank_l2"}) {
        names.push_back(layer.name + tensor);
    }
    return names;
}

QuantizedPair::QuantizedPair(fs::path path, QuantDescription description, SafetensorsFile weights)
    : path_(std::move(path)), description_(std::move(description)), weights_(std::move(weights)) {
    find_layers();
    find_attentions();
}

QuantizedPair QuantizedPair::open(const fs::path& path, int rank) {
    const fs::path file = is_folder(path) ? description_in(path, rank) : with_rank(path, rank);
    // An export may exchange the pair between the two openings: what was read first is then old.
    constexpr int kMostTries = 10;
    for (int attempt = 1;; ++attempt) {
        QuantDescription description = read_description_in_force(file);
        SafetensorsFile weights = SafetensorsFile::open(weight_path_of(file, description));
        const QuantDescription again = read_description_in_force(file);
        const bool same =
            again.model_quant_type == description.model_quant_type && again.entries == description.entries;
        if (same) return {file, std::move(description), std::move(weights)};
        if (attempt == kMostTries) {
            throw IoError(fmt::format("[quantize] {}: it is written anew all the time", file.string()));
        }
    }
}

void QuantizedPair::find_layers() {
    constexpr std::string_view kWeight = ".weight", kSmoothed = ".linear";
    std::map<std::string, std::string> types(description_.entries.begin(), description_.entries.end());
    const auto is_float = [&](const std::string& key) {
        const auto found = types.find(key);
        return found != types.end() && found->second == "FLOAT";
    };
    for (const auto& [key, type] : description_.entries) {
        if (type == "FLOAT") continue;
        if (is_attention_key(key)) {
            attention_keys_.push_back(key);
            continue;
        }
        std::string prefix = key;
        if (key.ends_with(kWeight)) {
            prefix.resize(key.size() - kWeight.size());
        } else if (!weights_.contains(key + std::string(kWeight))) {
            continue;  // a scale, an offset, a bias: read with its weight
        }
        if (!is_quant_type(type)) {
            throw InvalidArgument(
                fmt::format("[quantize] {}: '{}' has the unknown type '{}'; there are: FLOAT, {}",
                            path_.string(), key, type, scheme_names()));
        }
        std::string name = prefix;
        if (prefix.ends_with(kSmoothed)) {
            const std::string outer = prefix.substr(0, prefix.size() - kSmoothed.size());
            if (weights_.contains(outer + ".div.mul_scale")) name = outer;
        }
        // One FLOAT among the names a module may be listed under keeps it float.
        if (is_float(name) || is_float(name + ".weight") || is_float(name + ".linear.weight")) continue;
        layers_.push_back({std::move(name), std::move(prefix), upper_case(type)});
    }
}

std::size_t QuantizedPair::stored_bytes(const QuantizedLayer& layer) const {
    std::size_t bytes = 0;
    for (const std::string& name : aerogel::tensors_of(layer)) {
        if (!weights_.contains(name)) continue;
        const TensorInfo& info = weights_.info(name);
        bytes += static_cast<std::size_t>(element_count(info.shape)) * size_of(info.dtype);
    }
    return bytes;
}

}  // namespace aerogel
