// The table of families: a new one is a folder beside this file and a row here.
#include "model/families.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/lora.h"
#include "core/paths.h"
#include "model/flux2/original_names.h"
#include "model/flux2/transformer.h"
#include "model/quantize.h"
#include "model/qwen_image/transformer.h"
#include "model/text/text_model.h"
#include "model/wan/original_names.h"
#include "model/wan/transformer.h"
#include "model/z_image/original_names.h"
#include "model/z_image/transformer.h"

namespace aerogel {
namespace {

constexpr std::array kFamilies = {
    FamilyRow{"WanTransformer3DModel", load_wan, {}, kWanNames},
    FamilyRow{"ZImageTransformer2DModel", load_z_image, {kZImageLayers, kZImageAttentions}, kZImageNames},
    FamilyRow{"Flux2Transformer2DModel", load_flux2, {kFlux2Layers, kFlux2Attentions}, kFlux2Names},
    // Its own code names all as diffusers does.
    FamilyRow{"QwenImageTransformer2DModel",
              load_qwen_image,
              {kQwenImageLayers, kQwenImageAttentions, kQwenImageModulation}},
};

}  // namespace

std::span<const FamilyRow> families() {
    return kFamilies;
}

const FamilyRow* find_family(std::string_view class_name, std::span<const FamilyRow> rows) {
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [&](const FamilyRow& family) { return family.class_name == class_name; });
    return row == rows.end() ? nullptr : &*row;
}

const FamilyRow& family_of(const std::filesystem::path& config, std::span<const FamilyRow> rows) {
    std::vector<std::string_view> names;
    for (const FamilyRow& row : rows) names.push_back(row.class_name);
    const JsonNode json = JsonNode::read(config, "transformer");
    return *find_family(json.at("_class_name").word(names), rows);
}

std::string class_named(const JsonNode& config) {
    return config.has("_class_name") ? config.at("_class_name").text() : "";
}

DefaultPatterns default_patterns(const JsonNode& config, std::span<const FamilyRow> rows) {
    if (config.has("architectures")) return {kTextLayers, {}};
    const FamilyRow* const row = find_family(class_named(config), rows);
    return row == nullptr ? DefaultPatterns{} : row->defaults;
}

std::filesystem::path transformer_folder(const std::filesystem::path& folder) {
    for (const auto& home : {folder, folder / "transformer"}) {
        if (path_exists(home / "config.json")) return home;
    }
    const char* const wanted = "expected the folder of a pipeline or of a transformer";
    if (!path_exists(folder)) {
        throw IoError(
            fmt::format("[transformer] {} does not exist: {} on this machine, models are not downloaded",
                        folder.string(), wanted));
    }
    if (!is_folder(folder))
        throw IoError(fmt::format("[transformer] {} is a file: {}", folder.string(), wanted));
    throw IoError(
        fmt::format("[transformer] neither {0}/config.json nor {0}/transformer/config.json exists: {1}",
                    folder.string(), wanted));
}

std::unique_ptr<Transformer> load_transformer(const std::filesystem::path& folder,
                                              std::span<const FamilyRow> rows, const LoadOptions& options) {
    const auto home = transformer_folder(folder);
    check_load_options(options);
    std::unique_ptr<Transformer> model = family_of(home / "config.json", rows).load(home, options);
    for (const LoraFile& lora : options.loras) load_lora(*model, lora);
    quantize_as_loaded(*model, options);
    return model;
}

std::unique_ptr<Transformer> Transformer::load(const std::filesystem::path& folder, Device device) {
    return load(folder, LoadOptions{.device = device});
}

std::unique_ptr<Transformer> Transformer::load(const std::filesystem::path& folder,
                                               const LoadOptions& options) {
    return load_transformer(folder, families(), options);
}

}  // namespace aerogel
