// Recipes: msmodelslim's YAML files (apiversion multimodal_sd_modelslim_v1) that tell which layers are stored
// how. docs/quantization.md says which entries are there.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "quant/export.h"

namespace aerogel {

/// A `linear_quant` entry; or one without a scheme, `svd_res` or `iter_smooth`, that prepares layers for a
/// later `linear_quant`: a branch of rank options.low_rank, or options.smoothing.
struct RecipeEntry {
    std::string place;  ///< "spec.process[0]", for messages
    LayerOptions options;
    std::vector<std::string> include;
    std::vector<std::string> exclude;

    bool prepares() const { return options.scheme == nullptr; }
};

/// A `fa3_quant` entry, or (without a type) an `online_quarot` entry: q and k of the attention are rotated.
struct RecipeAttention {
    std::string place;
    std::string quant_type;  ///< "FP8_DYNAMIC", see quant/attention.h
    std::vector<std::string> include;
    std::vector<std::string> exclude;
};

struct Recipe {
    std::filesystem::path path;
    std::vector<RecipeEntry> entries;
    std::vector<RecipeAttention> attentions;
    std::vector<std::string> left_out;  ///< "fa3_quant (spec.process[2])"
};

/// Reads a recipe; entries of the types in `without` are left out. IoError; InvalidArgument naming file, line
/// and key for what is no such recipe (an unknown key with the nearest known one); Unsupported for entries
/// whose processing is not there.
Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& without = {});

/// The same for the text of a recipe; `path` is for the errors.
Recipe parse_recipe(const std::string& text, const std::filesystem::path& path,
                    const std::vector<std::string>& without = {});

/// What becomes of the attention of one module.
struct PlannedAttention {
    std::string quant_type;
    bool rotated = false;
};

struct RecipePlan {
    LayerPlan layers;
    std::map<std::string, PlannedAttention> attentions;
    std::vector<std::string> notes;  ///< patterns that matched no layer, entries without effect
};

/// What the recipe does to a model with those Linears. Patterns (* ? [ab] {a,b}, exclude wins) see the layers
/// of numbered blocks, as msmodelslim visits blocks only, under their own names and, for diffusers' Wan
/// models, under those of the original code ("blocks.0.self_attn.q"). Of several entries that match a layer
/// the first counts. InvalidArgument when no layer is left.
RecipePlan plan_of(const Recipe& recipe, const std::vector<std::string>& linears);

/// The name in the original Wan code of a layer of diffusers' WanTransformer3DModel; others as they are.
std::string original_wan_name(std::string_view layer);

}  // namespace aerogel
