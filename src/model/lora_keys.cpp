// Names of LoRA tensors: prefix, layer, ending.
#include "model/lora_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "aerogel/error.h"
#include "core/json.h"
#include "model/linears_by_name.h"

namespace aerogel {
namespace {

// What programs write before the name of a layer, perhaps several one after the other.
constexpr std::array<std::string_view, 7> kPrefixes = {
    "base_model.model.", "transformer.", "diffusion_model.", "model.", "lora_unet_",
    "lora_transformer_", "unet."};

struct Ending {
    std::string_view text;
    std::string LoraModule::*part;
};

constexpr std::array kEndings = {
    Ending{".lora_A.weight", &LoraModule::down},
    Ending{".lora_B.weight", &LoraModule::up},
    Ending{".lora_A.default.weight", &LoraModule::down},
    Ending{".lora_B.default.weight", &LoraModule::up},
    Ending{".lora_down.weight", &LoraModule::down},
    Ending{".lora_up.weight", &LoraModule::up},
    Ending{".lora.down.weight", &LoraModule::down},
    Ending{".lora.up.weight", &LoraModule::up},
    Ending{".alpha", &LoraModule::alpha},
    Ending{".lora_B.bias", &LoraModule::bias},
    Ending{".diff_b", &LoraModule::bias},
};

std::string_view without_prefixes(std::string_view name) {
    for (bool found = true; found;) {
        found = false;
        for (const std::string_view prefix : kPrefixes) {
            if (!name.starts_with(prefix)) continue;
            name.remove_prefix(prefix.size());
            found = true;
        }
    }
    return name;
}

std::string module_of(std::string_view name) {
    return lookup_name(without_prefixes(name));
}

// The keys of one object of the whole, in the order of the text, which JsonNode does not keep.
class KeysInOrder final : public JsonEvents {
  public:
    explicit KeysInOrder(std::string_view object) : object_(object) {}
    bool start_object(std::size_t) override { return ++depth_ > 0; }
    bool end_object() override { return depth_-- > 0; }
    bool key(string_t& name) override {
        if (depth_ == 1) inside_ = name == object_;
        if (depth_ == 2 && inside_) keys.push_back(name);
        return true;
    }
    std::vector<std::string> keys;

  private:
    std::string_view object_;
    int depth_ = 0;
    bool inside_ = false;
};

bool is_norm_of_zeros(const SafetensorsFile& file, const std::string& key) {
    const bool is_change = key.ends_with(".diff") || key.ends_with(".diff_b");
    if (!is_change || key.find("norm") == key.npos) return false;
    const DType dtype = file.info(key).dtype;
    if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) return false;
    const std::vector<float> values = file.tensor(key).to(DType::f32).values();
    return std::all_of(values.begin(), values.end(), [](float value) { return value == 0.0F; });
}

LoraMetadata read_metadata(const SafetensorsFile& file) {
    constexpr const char* kKey = "lora_adapter_metadata";
    LoraMetadata metadata;
    const auto found = file.metadata().find(kKey);
    if (found == file.metadata().end()) return metadata;
    const JsonNode json = JsonNode::parse(found->second, file.path(), "lora");
    constexpr double kLargest = 1e9;
    if (json.has("transformer.lora_alpha"))
        metadata.alpha = json.at("transformer.lora_alpha").number(0.0, kLargest);
    if (json.has("transformer.use_rslora")) metadata.root_of_rank = json.at("transformer.use_rslora").flag();
    if (!json.has("transformer.alpha_pattern")) return metadata;
    const JsonNode pattern = json.at("transformer.alpha_pattern");
    if (!pattern.is_object()) pattern.fail("an object of numbers");
    KeysInOrder names("transformer.alpha_pattern");
    parse_json(found->second, json.where(), names);
    for (const std::string& name : names.keys)
        metadata.alphas.emplace_back(without_prefixes(name), pattern.at(name).number(0.0, kLargest));
    return metadata;
}

}  // namespace

std::vector<std::string> LoraModule::keys() const {
    std::vector<std::string> all;
    for (const std::string& key : {down, up, alpha, bias})
        if (!key.empty()) all.push_back(key);
    return all;
}

double LoraMetadata::scale(const std::string& linear, std::int64_t rank) const {
    const auto named = std::find_if(alphas.begin(), alphas.end(), [&](const auto& pattern) {
        return linear == pattern.first || linear.ends_with("." + pattern.first);
    });
    const std::optional<double> numerator = named == alphas.end() ? alpha : named->second;
    const auto ranks = static_cast<double>(rank);
    return numerator ? *numerator / (root_of_rank ? std::sqrt(ranks) : ranks) : 1.0;
}

LoraKeys lora_keys(const SafetensorsFile& file) {
    LoraKeys result;
    result.metadata = read_metadata(file);
    for (const std::string& key : file.names()) {
        if (is_norm_of_zeros(file, key)) continue;
        const auto ending = std::find_if(kEndings.begin(), kEndings.end(),
                                         [&](const Ending& known) { return key.ends_with(known.text); });
        if (ending == kEndings.end()) {
            result.unknown.push_back(key);
            continue;
        }
        const std::string_view name = std::string_view(key).substr(0, key.size() - ending->text.size());
        std::string& place = result.modules[module_of(name)].*(ending->part);
        if (!place.empty()) {
            throw InvalidArgument(fmt::format("[lora] {}: '{}' and '{}' are the same part of a layer",
                                              file.path().string(), place, key));
        }
        place = key;
    }
    return result;
}

}  // namespace aerogel
