// Which Linears of a model are chosen, by patterns or by default, and why the others are not.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "aerogel/error.h"
#include "quant/layer_patterns.h"
#include "quant/model_plan.h"
#include "quant/name_pattern.h"

namespace aerogel {
namespace {

// Small layers that the quality hangs on: modulation, guidance, embeddings and norms of the known diffusion
// transformers. Adapters (peft's lora_A, lora_B) are small too, and trained.
constexpr std::array<std::string_view, 10> kKeptFloat = {"*norm*", "*mod",       "*mod.*",  "*modulation*",
                                                         "*film*", "*guidance*", "*embed*", "*adaln*",
                                                         "*time*", "*lora_*"};

std::string lower_case(std::string text) {
    for (char& c : text) {
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return text;
}

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

}  // namespace

std::vector<std::string> why_not_chosen(const ModelModules& model, const LayerSelection& selection) {
    return Selection(model, selection).why();
}

}  // namespace aerogel
