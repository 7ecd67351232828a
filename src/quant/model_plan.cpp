// Three decisions: which Linears are chosen, what a pair of files says of each module, and what a choice made
// in memory makes of it.
#include "quant/model_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "aerogel/error.h"
#include "core/text.h"
#include "quant/attention.h"
#include "quant/layer_patterns.h"
#include "quant/name_pattern.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

// --- which Linears are chosen, by patterns or by default, and why the others are not

// Small layers that the quality hangs on: modulation, guidance, embeddings and norms of the known diffusion
// transformers. Adapters (peft's lora_A, lora_B) are small too, and trained.
constexpr std::array<std::string_view, 10> kKeptFloat = {"*norm*", "*mod",       "*mod.*",  "*modulation*",
                                                         "*film*", "*guidance*", "*embed*", "*adaln*",
                                                         "*time*", "*lora_*"};

bool is_small(const std::string& name) {
    static const std::vector<NamePattern> patterns(kKeptFloat.begin(), kKeptFloat.end());
    const std::string lower = lower_case(name);
    return std::any_of(patterns.begin(), patterns.end(),
                       [&](const NamePattern& pattern) { return pattern.matches(lower); });
}

class Selection {
  public:
    Selection(const ModelModules& model, const LayerSelection& selection)
        : model_(model), selection_(selection) {
        if (model.default_layers) of_family_.emplace(*model.default_layers);
        for (std::size_t i = 0; i < model.modules.size(); ++i) {
            if (model.modules[i].is_attention) continue;
            linears_.push_back(i);
            names_.push_back(model.modules[i].name);
        }
        check();
    }

    std::vector<std::string> why() const {
        std::vector<std::string> why(model_.modules.size());
        const std::set<std::size_t> chosen = chosen_modules();
        const char* left = selection_.include ? "not chosen by include and exclude" : "excluded";
        for (const std::size_t i : linears_) {
            const ModelModule& module = model_.modules[i];
            if (!chosen.contains(model_.first_of(i))) {
                const std::string unasked = selection_.include ? "" : why_float_by_default(module);
                why[i] = unasked.empty() ? left : unasked;
            } else if (module.kept_float32) {
                why[i] = "the model keeps it in float32";
            }
        }
        return why;
    }

  private:
    void check() const {
        if (linears_.empty()) {
            throw InvalidArgument(fmt::format("[quantize] {} has no Linear layers", model_.model));
        }
        if (std::find(names_.begin(), names_.end(), "") != names_.end()) {
            throw InvalidArgument(
                fmt::format("[quantize] the model is a {} itself, which has no place to be "
                            "exchanged in: QuantizedLinear.from_linear makes one of it",
                            model_.model));
        }
        if (!selection_.include && default_count() == 0) {
            throw InvalidArgument(
                fmt::format("[quantize] {} has no Linear layers inside repeated blocks (several "
                            "siblings of one class in an nn.ModuleList): name the layers by "
                            "include=['*']",
                            model_.model));
        }
    }

    std::string why_float_by_default(const ModelModule& module) const {
        const bool in_block = of_family_ ? of_family_->matches(module.name) : module.in_block;
        if (!in_block) return "outside of the repeated blocks; include= chooses it";
        return !of_family_ && is_small(module.name) ? "small and sensitive; include= chooses it" : "";
    }

    std::size_t default_count() const {
        return static_cast<std::size_t>(std::count_if(linears_.begin(), linears_.end(), [&](std::size_t i) {
            return why_float_by_default(model_.modules[i]).empty();
        }));
    }

    std::set<std::string> matching(const std::vector<std::string>& patterns) const {
        if (patterns.empty()) return {};
        const std::vector<std::string> names = select_layers(names_, patterns, {});
        return {names.begin(), names.end()};
    }

    // One with several names is chosen when one of them is, unless one is excluded.
    std::set<std::size_t> chosen_modules() const {
        const std::vector<std::string> include = selection_.include.value_or(std::vector<std::string>{"*"});
        const std::vector<std::string> taken = select_layers(names_, include, selection_.exclude);
        const std::set<std::string> in(taken.begin(), taken.end()), out = matching(selection_.exclude);
        std::set<std::size_t> chosen, excluded;
        for (const std::size_t i : linears_) {
            const ModelModule& module = model_.modules[i];
            const bool wanted =
                in.contains(module.name) && (selection_.include || why_float_by_default(module).empty());
            if (wanted) chosen.insert(model_.first_of(i));
            if (out.contains(module.name)) excluded.insert(model_.first_of(i));
        }
        if (chosen.empty()) {
            throw InvalidArgument(
                fmt::format("[quantize] no layer is left to quantize: exclude {} of {} Linear layers",
                            fmt::join(selection_.exclude, " "), default_count()));
        }
        for (const std::size_t i : excluded) chosen.erase(i);
        return chosen;
    }

    const ModelModules& model_;
    const LayerSelection& selection_;
    std::optional<NamePattern> of_family_;  // what the model's family quantizes by default
    std::vector<std::size_t> linears_;
    std::vector<std::string> names_;
};

// The decision that a module stays as it is.
ModuleDecision stays(const ModelModules& model, std::size_t module, std::string why = {}) {
    const ModelModule& is = model.modules[module];
    ModuleDecision decision;
    decision.module = module;
    decision.is_attention = is.is_attention;
    decision.type = is.scheme.empty() ? "FLOAT" : is.scheme;
    decision.why = std::move(why);
    return decision;
}

// --- the plan of a model whose files say what to do

std::string why_float(const QuantizedPair& pair, const std::string& name) {
    for (const char* ending : {".weight", ".linear.weight", ""}) {
        if (pair.description().type_of(name + ending) == "FLOAT") return "marked FLOAT";
    }
    return "not in the description";
}

class FilePlan {
  public:
    FilePlan(const ModelModules& model, const QuantizedPair& pair, const FileChoices& choices)
        : model_(model), pair_(pair), choices_(choices) {
        for (std::size_t i = 0; i < model.modules.size(); ++i) {
            const ModelModule& module = model.modules[i];
            (module.is_attention ? attentions_ : linears_).emplace(module.name, i);
            (module.is_attention ? attention_names_ : linear_names_).push_back(module.name);
        }
    }

    std::vector<ModuleDecision> decisions() {
        decide_linears();
        decide_aliases();
        for (std::size_t i = 0; i < pair_.attentions().size(); ++i) decide_attention(i);
        return std::move(decisions_);
    }

  private:
    std::string wanted(const std::string& name, const std::string& stored, bool is_attention) const {
        return choices_.type_of ? upper_case(choices_.type_of(name, stored, is_attention)) : stored;
    }

    std::vector<std::string> why_unselected() const {
        LayerSelection selection = choices_.selection;
        // What speaks of attention alone is no business of the Linears.
        std::erase_if(selection.exclude, [&](const std::string& pattern) {
            return std::any_of(
                       pair_.attentions().begin(), pair_.attentions().end(),
                       [&](const StoredAttention& stored) { return matches(pattern, stored.name); }) &&
                   std::none_of(linear_names_.begin(), linear_names_.end(),
                                [&](const std::string& name) { return matches(pattern, name); });
        });
        if (!selection.include && selection.exclude.empty()) {
            return std::vector<std::string>(model_.modules.size());
        }
        if (!selection.include) selection.include = {"*"};
        return why_not_chosen(model_, selection);
    }

    bool excludes(const std::string& name) const {
        const std::vector<std::string>& patterns = choices_.selection.exclude;
        return std::any_of(patterns.begin(), patterns.end(),
                           [&](const std::string& pattern) { return matches(pattern, name); });
    }

    void decide_linears() {
        std::map<std::string, std::size_t> entries;
        for (std::size_t i = 0; i < pair_.layers().size(); ++i) {
            const std::string& name = pair_.layers()[i].name;
            if (!linears_.contains(name)) refuse("Linear", name, linear_names_);
            entries[name] = i;
        }
        const std::vector<std::string> unselected = why_unselected();
        for (std::size_t i = 0; i < model_.modules.size(); ++i) {
            const ModelModule& module = model_.modules[i];
            if (module.is_attention) continue;
            const auto entry = entries.find(module.name);
            if (!unselected[i].empty() || !module.unfit.empty()) {
                decisions_.push_back(stays(model_, i, unselected[i].empty() ? module.unfit : unselected[i]));
            } else if (entry == entries.end()) {
                decisions_.push_back(stays(model_, i, why_float(pair_, module.name)));
            } else {
                decisions_.push_back(linear_of(i, entry->second));
            }
        }
    }

    ModuleDecision linear_of(std::size_t module, std::size_t entry) const {
        const QuantizedLayer& layer = pair_.layers()[entry];
        const std::string type = wanted(layer.name, layer.quant_type, false);
        ModuleDecision decision = stays(model_, module, "chosen float by scheme_of");
        if (type == "FLOAT") return decision;
        decision.type = type;
        decision.quantizes = true;
        decision.why.clear();
        decision.entry = entry;
        return decision;
    }

    // A module that is exchanged under one name is so under all.
    void decide_aliases() {
        std::unordered_map<std::size_t, ModuleDecision> exchanged;
        for (const ModuleDecision& decision : decisions_) {
            if (decision.quantizes) exchanged.emplace(model_.first_of(decision.module), decision);
        }
        for (ModuleDecision& decision : decisions_) {
            const auto found = exchanged.find(model_.first_of(decision.module));
            if (decision.quantizes || found == exchanged.end()) continue;
            const std::size_t module = decision.module;
            decision = found->second;
            decision.module = module;
        }
    }

    void decide_attention(std::size_t entry) {
        StoredAttention attention = pair_.attentions()[entry];
        const bool excluded = excludes(attention.name);
        attention.quant_type = excluded ? "FLOAT" : wanted(attention.name, attention.quant_type, true);
        const auto found = attentions_.find(attention.name);
        const bool is_float = attention.quant_type == "FLOAT";
        if (found == attentions_.end()) {
            if (is_float) return;
            refuse("attention", attention.name, attention_names_);
        }
        const ModelModule& module = model_.modules[found->second];
        const std::string in_float = excluded ? "excluded" : is_float ? "chosen float" : module.unfit;
        ModuleDecision decision = stays(model_, found->second, in_float);
        decision.entry = entry;
        if (decision.why.empty()) quantize_attention(attention, module, decision);
        decisions_.push_back(std::move(decision));
    }

    void quantize_attention(const StoredAttention& attention, const ModelModule& module,
                            ModuleDecision& decision) const {
        const auto type = find_attention_type(attention.quant_type);
        if (type && type->calibrated && module.heads == 0) {
            throw InvalidArgument(fmt::format(
                "[quantize] {}: calibrated attention needs a module with `heads` (and `inner_dim`)",
                module.name));
        }
        try {
            decision.attention = pair_.read(attention, module.heads, module.head_dim, module.kv_heads);
        } catch (const Unsupported& error) {
            decision.why = error.what();
            return;
        }
        decision.type = attention.quant_type;
        decision.quantizes = true;
    }

    [[noreturn]] void refuse(const char* what, const std::string& name,
                             const std::vector<std::string>& names) const {
        throw InvalidArgument(fmt::format("[quantize] {}: the model has no {} '{}'{}", pair_.path().string(),
                                          what, name, suggestion(name, names)));
    }

    const ModelModules& model_;
    const QuantizedPair& pair_;
    const FileChoices& choices_;
    std::unordered_map<std::string, std::size_t> linears_, attentions_;
    std::vector<std::string> linear_names_, attention_names_;
    std::vector<ModuleDecision> decisions_;
};

// --- the plan of a float model that is quantized in memory

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
                         config.low_rank,
                         config.rotation_kind};
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
        check_fit(module.name, {module.out_features, module.in_features}, wish.choices);
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

std::vector<std::string> why_not_chosen(const ModelModules& model, const LayerSelection& selection) {
    return Selection(model, selection).why();
}

QuantizedLinearWeights ModelPlan::read(const QuantizedPair& pair, const ModuleDecision& decision) const {
    const ModelModule& module = module_of(decision);
    QuantizedLayer layer = pair.layers().at(decision.entry);
    layer.quant_type = decision.type;
    QuantizedLinearWeights weights = pair.read(layer, module.in_features);
    if (weights.weight.rows == module.out_features && weights.weight.columns == module.in_features) {
        return weights;
    }
    throw InvalidArgument(fmt::format("[quantize] {}: '{}.weight' must be {}[{},{}] for this model, got {}",
                                      pair.weights().path().string(), layer.prefix,
                                      to_string(weights.weight.data.dtype()), module.out_features,
                                      module.in_features, weights.weight.data.describe()));
}

ModelPlan plan_from_files(const ModelModules& model, const QuantizedPair& pair, const FileChoices& choices) {
    return {FilePlan(model, pair, choices).decisions(), model.modules};
}

ModelPlan plan_in_memory(const ModelModules& model, const OnlineQuantConfig& config) {
    return {OnlinePlan(model, config).decisions(), model.modules};
}

}  // namespace aerogel
