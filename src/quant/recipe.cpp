// From a recipe to a plan: matching names.
#include "quant/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <utility>

#include "aerogel/error.h"
#include "quant/attention_types.h"
#include "quant/layer_patterns.h"

namespace aerogel {
namespace {

// Parts of names, diffusers' first; longer ones before those they begin with.
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kWanParts = {
    {{".attn1.", ".self_attn."},
     {".attn2.", ".cross_attn."},
     {".to_q", ".q"},
     {".to_k", ".k"},
     {".to_v", ".v"},
     {".to_out.0", ".o"},
     {".add_k_proj", ".k_img"},
     {".add_v_proj", ".v_img"},
     {".ffn.net.0.proj", ".ffn.0"},
     {".ffn.net.2", ".ffn.2"}}};

// "blocks.3.attn1.to_q", "transformer_blocks.0.ff.net.2" ...
bool in_numbered_block(std::string_view name) {
    constexpr std::string_view kBlocks = "blocks.";
    for (std::size_t at = name.find(kBlocks); at != std::string_view::npos; at = name.find(kBlocks, at + 1)) {
        const std::size_t digit = at + kBlocks.size();
        if (digit < name.size() && std::isdigit(static_cast<unsigned char>(name[digit])) != 0) return true;
    }
    return false;
}

struct Candidate {
    std::string name;
    std::string original;
};

std::vector<Candidate> candidates(const std::vector<std::string>& linears) {
    std::vector<Candidate> result;
    for (const std::string& name : linears) {
        if (in_numbered_block(name)) result.push_back({name, original_wan_name(name)});
    }
    if (!result.empty()) return result;
    for (const std::string& name : linears) result.push_back({name, name});  // a model without such blocks
    return result;
}

bool fits(const std::string& pattern, const Candidate& layer) {
    return matches(pattern, layer.name) || matches(pattern, layer.original);
}

bool fits_any(const std::vector<std::string>& patterns, const Candidate& layer) {
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const std::string& pattern) { return fits(pattern, layer); });
}

template <typename Entry>
void add_unmatched(const Entry& entry, const std::vector<Candidate>& layers, RecipePlan& plan) {
    for (const auto& [key, patterns] : {std::pair("include", &entry.include), {"exclude", &entry.exclude}}) {
        for (const std::string& pattern : *patterns) {
            const bool found = std::any_of(layers.begin(), layers.end(),
                                           [&](const Candidate& layer) { return fits(pattern, layer); });
            if (!found)
                plan.notes.push_back(fmt::format("{}.{} '{}' matches no layer", entry.place, key, pattern));
        }
    }
}

template <typename Entry>
bool takes(const Entry& entry, const Candidate& layer) {
    return fits_any(entry.include, layer) && !fits_any(entry.exclude, layer);
}

// Self-attention of the layers' blocks: the module of every q, in both names.
std::vector<Candidate> attention_modules(const std::vector<Candidate>& layers) {
    std::vector<Candidate> modules;
    for (const Candidate& layer : layers) {
        for (const std::string_view ending : {".to_q", ".q"}) {
            if (!layer.name.ends_with(ending)) continue;
            const std::string module = layer.name.substr(0, layer.name.size() - ending.size());
            if (!matches(kDefaultAttentions, module)) continue;
            const std::string& original = layer.original;
            modules.push_back({module, original.substr(0, original.rfind('.'))});
        }
    }
    return modules;
}

// Patterns of rotations speak of parts of the module ("*.self_attn.*").
bool rotates(const Recipe& recipe, const Candidate& module) {
    const Candidate part = {module.name + ".q_rot", module.original + ".q_rot"};
    return std::any_of(recipe.attentions.begin(), recipe.attentions.end(), [&](const RecipeAttention& entry) {
        const bool inside = fits_any(entry.include, module) || fits_any(entry.include, part);
        const bool outside = fits_any(entry.exclude, module) || fits_any(entry.exclude, part);
        return entry.quant_type.empty() && inside && !outside;
    });
}

void plan_attentions(const Recipe& recipe, const std::vector<Candidate>& layers, RecipePlan& plan) {
    const std::vector<Candidate> modules = attention_modules(layers);
    for (const RecipeAttention& entry : recipe.attentions) {
        if (entry.quant_type.empty()) continue;
        add_unmatched(entry, modules, plan);
        const bool needs = attention_type("recipe", entry.quant_type).needs_rotation;
        for (const Candidate& module : modules) {
            if (!takes(entry, module) || plan.attentions.contains(module.name)) continue;
            const bool rotated = rotates(recipe, module);
            if (needs && !rotated) {
                throw InvalidArgument(
                    fmt::format("[recipe] {}: {}: {} of {} needs an online_quarot entry that matches it too",
                                recipe.path.string(), entry.place, entry.quant_type, module.name));
            }
            plan.attentions[module.name] = {entry.quant_type, rotated};
        }
    }
}

// Gives every layer that the entry takes its options, with what earlier entries prepared.
void plan_layers(const RecipeEntry& entry, const std::vector<Candidate>& layers,
                 std::map<std::string, LayerOptions>& prepared, RecipePlan& plan) {
    bool useful = false;
    for (const Candidate& layer : layers) {
        if (!takes(entry, layer) || plan.layers.contains(layer.name)) continue;  // the first one stays
        useful = true;
        LayerOptions& before = prepared[layer.name];
        if (entry.options.low_rank != 0) before.low_rank = entry.options.low_rank;
        if (!entry.options.smoothing.empty()) before.smoothing = entry.options.smoothing;
        if (entry.prepares()) continue;
        LayerOptions& options = plan.layers[layer.name] = entry.options;
        options.low_rank = before.low_rank;
        options.smoothing = before.smoothing;
    }
    if (!useful) plan.notes.push_back(entry.place + " has no effect: earlier entries take all its layers");
}

}  // namespace

std::string original_wan_name(std::string_view layer) {
    std::string name(layer);
    if (name.find(".attn1.") == std::string::npos && name.find(".attn2.") == std::string::npos &&
        name.find(".ffn.net.") == std::string::npos) {
        return name;
    }
    for (const auto& [part, original] : kWanParts) {
        const std::size_t at = name.find(part);
        if (at != std::string::npos) name.replace(at, part.size(), original);
    }
    return name;
}

RecipePlan plan_of(const Recipe& recipe, const std::vector<std::string>& linears) {
    const std::vector<Candidate> layers = candidates(linears);
    RecipePlan plan;
    std::map<std::string, LayerOptions> prepared;
    for (const RecipeEntry& entry : recipe.entries) {
        add_unmatched(entry, layers, plan);
        plan_layers(entry, layers, prepared, plan);
    }
    if (plan.layers.empty()) {
        throw InvalidArgument(fmt::format("[recipe] {}: no entry matches any of the {} Linear layers",
                                          recipe.path.string(), layers.size()));
    }
    plan_attentions(recipe, layers, plan);
    return plan;
}

}  // namespace aerogel
