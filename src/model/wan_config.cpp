// config.json of diffusers' WanTransformer3DModel. Unknown keys are ignored, as diffusers does; a value of
// the wrong type or range is an error that names the key.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "aerogel/error.h"
#include "aerogel/wan.h"
#include "model/json_file.h"

namespace aerogel {
namespace {

using Json = nlohmann::json;

// Large enough for any real model, small enough that products of three sizes cannot overflow.
constexpr std::int64_t kLargestSize = 1 << 20;

class ConfigReader {
  public:
    ConfigReader(const std::filesystem::path& path, const Json& json) : path_(path), json_(json) {}

    void size(const char* key, std::int64_t& value) const {
        if (const Json* entry = find(key)) value = checked_size(key, *entry);
    }

    void optional_size(const char* key, std::optional<std::int64_t>& value) const {
        const auto entry = json_.find(key);
        if (entry == json_.end()) return;
        value = entry->is_null() ? std::nullopt : std::optional(checked_size(key, *entry));
    }

    void flag(const char* key, bool& value) const {
        const Json* entry = find(key);
        if (entry == nullptr) return;
        if (!entry->is_boolean()) fail(key, "true or false", *entry);
        value = entry->get<bool>();
    }

    void patch_size(std::vector<std::int64_t>& value) const {
        const Json* entry = find("patch_size");
        if (entry == nullptr) return;
        if (!entry->is_array() || entry->size() != 3) fail("patch_size", "a list of three sizes", *entry);
        value.clear();
        for (const Json& item : *entry) value.push_back(checked_size("patch_size", item));
    }

    void eps(float& value) const {
        const Json* entry = find("eps");
        if (entry == nullptr) return;
        if (!entry->is_number() || !(entry->get<double>() > 0.0) || !(entry->get<double>() < 1.0)) {
            fail("eps", "a number between 0 and 1", *entry);
        }
        value = entry->get<float>();
    }

    void qk_norm(std::optional<std::string>& value) const {
        const auto entry = json_.find("qk_norm");
        if (entry == json_.end()) return;
        if (entry->is_null()) {
            value = std::nullopt;
        } else if (*entry != "rms_norm_across_heads") {
            fail("qk_norm", "\"rms_norm_across_heads\" or null", *entry);
        }
    }

    [[noreturn]] void fail(const char* key, const char* wanted, const Json& value) const {
        wrong_json_value("wan", path_, key, wanted, value);
    }

  private:
    // A missing key and null both leave the default.
    const Json* find(const char* key) const {
        const auto entry = json_.find(key);
        return entry == json_.end() || entry->is_null() ? nullptr : &*entry;
    }

    std::int64_t checked_size(const char* key, const Json& value) const {
        constexpr const char* kWanted = "a whole number between 1 and 1048576";
        if (!value.is_number_integer()) fail(key, kWanted, value);
        if (value.is_number_unsigned() && value.get<std::uint64_t>() > kLargestSize)
            fail(key, kWanted, value);
        const auto size = value.get<std::int64_t>();
        if (size < 1 || size > kLargestSize) fail(key, kWanted, value);
        return size;
    }

    const std::filesystem::path& path_;
    const Json& json_;
};

void check(const WanConfig& config, const std::filesystem::path& path) {
    const std::string where = "[wan] " + path.string() + ": ";
    const std::int64_t head_dim = config.attention_head_dim;
    if (head_dim % 2 != 0 || head_dim > 256) {
        throw InvalidArgument(
            fmt::format("{}attention_head_dim must be even and at most 256, got {}", where, head_dim));
    }
    if (config.inner_dim() > kLargestSize) {
        throw InvalidArgument(fmt::format("{}{} heads of {} are too wide", where, config.num_attention_heads,
                                          config.attention_head_dim));
    }
    // The added projections read the embedded image tokens, which have the width of the model.
    if (config.added_kv_proj_dim && *config.added_kv_proj_dim != config.inner_dim()) {
        throw InvalidArgument(fmt::format("{}added_kv_proj_dim must be heads * head_dim = {}, got {}", where,
                                          config.inner_dim(), *config.added_kv_proj_dim));
    }
    if (config.pos_embed_seq_len && !config.image_dim) {
        throw InvalidArgument(where + "pos_embed_seq_len needs image_dim");
    }
}

}  // namespace

WanConfig WanConfig::read(const std::filesystem::path& path) {
    const Json json = read_json_object(path);
    const ConfigReader reader(path, json);
    const auto class_name = json.find("_class_name");
    if (class_name == json.end()) reader.fail("_class_name", "\"WanTransformer3DModel\"", nullptr);
    if (*class_name != "WanTransformer3DModel") {
        reader.fail("_class_name", "\"WanTransformer3DModel\"", *class_name);
    }
    WanConfig config;
    reader.patch_size(config.patch_size);
    reader.size("num_attention_heads", config.num_attention_heads);
    reader.size("attention_head_dim", config.attention_head_dim);
    reader.size("in_channels", config.in_channels);
    config.out_channels = config.in_channels;
    if (!json.contains("out_channels")) config.out_channels = WanConfig{}.out_channels;
    reader.size("out_channels", config.out_channels);
    reader.size("text_dim", config.text_dim);
    reader.size("freq_dim", config.freq_dim);
    reader.size("ffn_dim", config.ffn_dim);
    reader.size("num_layers", config.num_layers);
    reader.flag("cross_attn_norm", config.cross_attn_norm);
    reader.qk_norm(config.qk_norm);
    reader.eps(config.eps);
    reader.optional_size("image_dim", config.image_dim);
    reader.optional_size("added_kv_proj_dim", config.added_kv_proj_dim);
    reader.size("rope_max_seq_len", config.rope_max_seq_len);
    reader.optional_size("pos_embed_seq_len", config.pos_embed_seq_len);
    check(config, path);
    return config;
}

}  // namespace aerogel
