// From a recipe to a plan: matching names.
#include "quant/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <map>
#include <utility>

#include "aerogel/error.h"
#include "quant/attention.h"
#include "quant/layer_patterns.h"
#include "quant/name_pattern.h"

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

bool fits(const NamePattern& pattern, const Candidate& layer) {
    return pattern.matches(layer.name) || pattern.matches(layer.original);
}

// Include and exclude of an entry, compiled once for all layers.
class Patterns {
  public:
    template <typename Entry>
    explicit Patterns(const Entry& entry)
        : include_(entry.include.begin(), entry.include.end()),
          exclude_(entry.exclude.begin(), entry.exclude.end()) {}

    bool includes(const Candidate& layer) const { return any(include_, layer); }
    bool excludes(const Candidate& layer) const { return any(exclude_, layer); }
    bool take(const Candidate& layer) const { return includes(layer) && !excludes(layer); }

  private:
    static bool any(const std::vector<NamePattern>& patterns, const Candidate& layer) {
        return std::any_of(patterns.begin(), patterns.end(),
                           [&](const NamePattern& pattern) { return fits(pattern, layer); });
    }
    std::vector<NamePattern> include_, exclude_;
};

template <typename Entry>
void add_unmatched(const Entry& entry, const std::vector<Candidate>& layers, RecipePlan& plan) {
    for (const auto& [key, patterns] : {std::pair("include", &entry.include), {"exclude", &entry.exclude}}) {
        for (const std::string& pattern : *patterns) {
            const NamePattern ready(pattern);
            const bool found = std::any_of(layers.begin(), layers.end(),
                                           [&](const Candidate& layer) { return fits(ready, layer); });
            if (!found)
                plan.notes.push_back(fmt::format("{}.{} '{}' matches no layer", entry.place, key, pattern));
        }
    }
}

// Self-attention of the layers' blocks: the module of every q, in both names.
std::vector<Candidate> attention_modules(const std::vector<Candidate>& layers) {
    const NamePattern self_attention(kDefaultAttentions);
    std::vector<Candidate> modules;
    for (const Candidate& layer : layers) {
        const std::string module = attention_of_queries(layer.name);
        if (module.empty() || !self_attention.matches(module)) continue;
        const std::string& original = layer.original;
        modules.push_back({module, original.substr(0, original.rfind('.'))});
    }
    return modules;
}

// Patterns of rotations speak of parts of the module ("*.self_attn.*").
bool rotates(const Recipe& recipe, const Candidate& module) {
    const Candidate part = {module.name + ".q_rot", module.original + ".q_rot"};
    return std::any_of(recipe.attentions.begin(), recipe.attentions.end(), [&](const RecipeAttention& entry) {
        if (!entry.quant_type.empty()) return false;
        const Patterns patterns(entry);
        return (patterns.includes(module) || patterns.includes(part)) && !patterns.excludes(module) &&
               !patterns.excludes(part);
    });
}

void plan_attentions(const Recipe& recipe, const std::vector<Candidate>& layers, RecipePlan& plan) {
    const std::vector<Candidate> modules = attention_modules(layers);
    for (const RecipeAttention& entry : recipe.attentions) {
        if (entry.quant_type.empty()) continue;
        add_unmatched(entry, modules, plan);
        const Patterns patterns(entry);
        const bool needs = attention_type("recipe", entry.quant_type).needs_rotation;
        for (const Candidate& module : modules) {
            if (!patterns.take(module) || plan.attentions.contains(module.name)) continue;
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
    const Patterns patterns(entry);
    for (const Candidate& layer : layers) {
        if (!patterns.take(layer) || plan.layers.contains(layer.name)) continue;  // the first one stays
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
