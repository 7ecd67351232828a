// The plan of a float model that is quantized in memory.
#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "quant/attention_types.h"
#include "quant/layer_patterns.h"
#include "quant/model_plan.h"
#include "quant/name_pattern.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

// A scheme that needs no data; suffixes of its name go into `choices`.
const SchemeRow& online_scheme(const std::string& name, LayerChoices& choices) {
    const SchemeRow& scheme = scheme_with_choices(name, choices);
    if (!scheme.needs_calibration) return scheme;
    throw InvalidArgument(fmt::format(
        "[quantize] {} needs calibrated activation ranges and comes from files (aerogel quantize); "
        "in memory there are the schemes without calibration, such as W8A8_DYNAMIC",
        scheme.name));
}

// What a layer becomes; no scheme = float.
struct Wish {
    const SchemeRow* scheme = nullptr;
    LayerChoices choices = {.weight = {.group_size = kSchemeGroups}};
};

class OnlinePlan {
  public:
    OnlinePlan(const ModelModules& model, const OnlineQuantConfig& config) : model_(model), config_(config) {
        wish_.choices = {config.algorithm,
                         "",
                         {config.group_size, config.symmetric},
                         config.rotation_block,
                         config.low_rank};
        wish_.scheme = &online_scheme(config.quant_type, wish_.choices);
        check_choices(*wish_.scheme, wish_.choices);
        if (needs_inputs(*wish_.scheme, wish_.choices)) {
            algorithm_row(config.algorithm, wish_.scheme->weight);  // refuses
        }
        for (const auto& [pattern, name] : config.fallback_layers) add_fallback(pattern, name);
        find_fallbacks();
    }

    std::vector<ModuleDecision> decisions() {
        LayerSelection selection{std::nullopt, config_.exclude};
        if (!config_.include.empty()) selection.include = config_.include;
        const std::vector<std::string> unselected = why_not_chosen(model_, selection);
        for (std::size_t i = 0; i < model_.modules.size(); ++i) {
            if (!model_.modules[i].is_attention) decisions_.push_back(linear_of(i, unselected[i]));
        }
        const bool any = std::any_of(decisions_.begin(), decisions_.end(),
                                     [](const ModuleDecision& decision) { return decision.quantizes; });
        if (!any && !first_lost_.empty() && config_.fa_quant_type.empty()) {
            throw InvalidArgument("[quantize] no layer can be quantized; " + first_lost_);
        }
        decide_attentions();
        return std::move(decisions_);
    }

  private:
    struct Fallback {
        std::string text;
        NamePattern pattern;
        Wish wish;

        bool means(const std::string& name) const { return name == text || pattern.matches(name); }
    };

    void add_fallback(const std::string& pattern, const std::string& name) {
        Fallback fallback{pattern, NamePattern(pattern), {}};
        const std::string scheme = upper_case(name);
        if (scheme != "W16A16") {
            fallback.wish.scheme =
                &online_scheme(scheme == "W8A8" ? "W8A8_DYNAMIC" : name, fallback.wish.choices);
        }
        std::vector<std::string> linears;
        bool known = false;
        for (const ModelModule& module : model_.modules) {
            known = known || (fallback.means(module.name) && (!module.is_attention || module.unfit.empty()));
            if (!module.is_attention) linears.push_back(module.name);
        }
        if (!known) select_layers(linears, {pattern}, {});  // refuses a pattern without a match
        fallbacks_.push_back(std::move(fallback));
    }

    const Wish* fallback_of(const std::string& name) const {
        const auto found = std::find_if(fallbacks_.begin(), fallbacks_.end(),
                                        [&](const Fallback& fallback) { return fallback.means(name); });
        return found == fallbacks_.end() ? nullptr : &found->wish;
    }

    // Of several names of a module, the first with a fallback decides.
    void find_fallbacks() {
        by_module_.assign(model_.modules.size(), nullptr);
        for (std::size_t i = 0; i < model_.modules.size(); ++i) {
            const Wish*& wish = by_module_[model_.first_of(i)];
            if (wish == nullptr) wish = fallback_of(model_.modules[i].name);
        }
    }

    const Wish& wish_of(std::size_t module) const {
        const Wish* fallback = by_module_[model_.first_of(module)];
        return fallback == nullptr ? wish_ : *fallback;
    }

    ModuleDecision linear_of(std::size_t index, const std::string& unselected) {
        const ModelModule& module = model_.modules[index];
        ModuleDecision decision = stays(model_, index);
        if (!unselected.empty()) {
            if (module.scheme.empty()) decision.why = unselected;
            return decision;
        }
        const Wish& wish = wish_of(index);
        if (wish.scheme == nullptr) {
            decision.why = "a fallback layer";
            return decision;
        }
        const std::string type = quant_type_of(*wish.scheme, wish.choices);
        const bool same_groups =
            config_.group_size == kSchemeGroups || config_.group_size == module.group_size;
        if (module.scheme == type && same_groups) return decision;
        decision.why = module.unfit;
        if (decision.why.empty() && !module.scheme.empty()) {
            decision.why = fmt::format("quantized before, as {}, and not anew as {}", module.scheme, type);
        }
        if (!decision.why.empty()) {
            if (first_lost_.empty()) first_lost_ = module.name + ": " + decision.why;
            return decision;
        }
        decision.type = type;
        decision.quantizes = true;
        decision.scheme = wish.scheme;
        decision.choices = wish.choices;
        return decision;
    }

    void decide_attentions() {
        if (config_.fa_quant_type.empty()) {
            if (config_.fa_layers.empty()) return;
            throw InvalidArgument("[quantize] fa_layers without fa_quant_type");
        }
        const AttentionType type = attention_type("quantize", config_.fa_quant_type);
        if (type.calibrated) {
            throw InvalidArgument(fmt::format(
                "[quantize] {} attention needs calibrated scales and comes from files; in memory there is {}",
                type.name, attention_format_row(type.format).file_type));
        }
        for (const std::size_t i : named_attentions()) decisions_.push_back(attention_of(i, type));
    }

    // By name or by class, in the order of the modules.
    std::vector<std::size_t> named_attentions() const {
        std::vector<std::string> patterns = config_.fa_layers, names;
        if (patterns.empty()) patterns.push_back(model_.default_attentions);
        std::vector<bool> named(model_.modules.size());
        for (const ModelModule& module : model_.modules) {
            if (module.is_attention) names.push_back(module.name);
        }
        for (const std::string& text : patterns) {
            const NamePattern pattern(text);
            const auto means = [&](const std::string& name) { return name == text || pattern.matches(name); };
            bool any = false;
            for (std::size_t i = 0; i < model_.modules.size(); ++i) {
                const ModelModule& module = model_.modules[i];
                if (!module.is_attention ||
                    !(means(module.name) ||
                      std::any_of(module.classes.begin(), module.classes.end(), means))) {
                    continue;
                }
                named[i] = any = true;
            }
            if (!any) select_attentions(names, {text});  // refuses a pattern without a match
        }
        std::vector<std::size_t> found;
        for (std::size_t i = 0; i < named.size(); ++i) {
            if (named[i]) found.push_back(i);
        }
        return found;
    }

    ModuleDecision attention_of(std::size_t index, const AttentionType& type) const {
        const ModelModule& module = model_.modules[index];
        const Wish* fallback = fallback_of(module.name);
        const bool is_float = fallback != nullptr && fallback->scheme == nullptr;
        ModuleDecision decision = stays(model_, index, is_float ? "a fallback layer" : module.unfit);
        if (!decision.why.empty()) return decision;
        if (module.head_dim == 0) {
            throw InvalidArgument(fmt::format(
                "[quantize] {}: the size of its heads is unknown: give it head_dim, or inner_dim and heads",
                module.name));
        }
        decision.attention = dynamic_attention(type, module.head_dim);
        decision.type = decision.attention->quant_type;
        decision.quantizes = true;
        return decision;
    }

    const ModelModules& model_;
    const OnlineQuantConfig& config_;
    Wish wish_;
    std::vector<Fallback> fallbacks_;
    std::vector<const Wish*> by_module_;
    std::vector<ModuleDecision> decisions_;
    std::string first_lost_;
};

}  // namespace

ModelPlan plan_in_memory(const ModelModules& model, const OnlineQuantConfig& config) {
    return {OnlinePlan(model, config).decisions(), model.modules};
}

}  // namespace aerogel
