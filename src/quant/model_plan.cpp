// The plan of a model whose files say what to do.
#include "quant/model_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "aerogel/error.h"
#include "core/text.h"
#include "quant/attention_types.h"
#include "quant/layer_patterns.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

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

}  // namespace

ModuleDecision stays(const ModelModules& model, std::size_t module, std::string why) {
    const ModelModule& is = model.modules[module];
    ModuleDecision decision;
    decision.module = module;
    decision.is_attention = is.is_attention;
    decision.type = is.scheme.empty() ? "FLOAT" : is.scheme;
    decision.why = std::move(why);
    return decision;
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

}  // namespace aerogel
