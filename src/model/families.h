// The model families that Transformer::load knows, by the class that config.json names.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/transformer.h"
#include "core/json.h"
#include "quant/layer_patterns.h"
#include "quant/original_names.h"

namespace aerogel {

/// What is quantized unless told otherwise.
struct DefaultPatterns {
    std::string_view layers = kDefaultLayers;
    std::string_view attentions = kDefaultAttentions;
    std::string_view further_layers = {};  ///< AutomaticSchemes::further_layers
};

struct FamilyRow {
    std::string_view class_name;  ///< of diffusers
    /// From the folder with config.json and the weights, float: whoever calls quantizes. IoError,
    /// InvalidArgument.
    std::unique_ptr<Transformer> (*load)(const std::filesystem::path& folder, const LoadOptions& options);
    /// As Transformer::default_layers() and default_attentions() of its models, for files of which none is
    /// loaded.
    DefaultPatterns defaults = {};
    /// How the model's own code names the same tensors.
    OriginalNames original_names = {};
};

std::span<const FamilyRow> families();

/// The family of this class of diffusers, or null.
const FamilyRow* find_family(std::string_view class_name, std::span<const FamilyRow> rows = families());

/// The family that config.json names. InvalidArgument listing the known ones.
const FamilyRow& family_of(const std::filesystem::path& config, std::span<const FamilyRow> rows = families());

/// The class that a config.json names, empty where it names none.
std::string class_named(const JsonNode& config);

/// Those of the family that this config.json names, of a text encoder where it is of transformers, or of no
/// family where it names none that is known.
DefaultPatterns default_patterns(const JsonNode& config, std::span<const FamilyRow> rows = families());

/// Where the transformer of a folder lies: the folder itself, or transformer/ in it. IoError.
std::filesystem::path transformer_folder(const std::filesystem::path& folder);

/// Transformer::load with a table of families.
std::unique_ptr<Transformer> load_transformer(const std::filesystem::path& folder,
                                              std::span<const FamilyRow> rows = families(),
                                              const LoadOptions& options = {});

}  // namespace aerogel
