// quantize(model, ...): everything is read, checked and packed first, then all layers are
// exchanged, so that an error leaves the model as it was.
#include "aerogel/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "core/finite.h"
#include "core/text.h"
#include "quant/attention_types.h"
#include "quant/float_layer.h"
#include "quant/layer_patterns.h"
#include "quant/load.h"
#include "quant/name_pattern.h"

namespace aerogel {
namespace {

void check_fits(const WanTransformer& model, const QuantizedPair& pair, const QuantizedLayer& layer,
                const QuantizedLinearWeights& weights) {
    const Linear& linear = model.linear(layer.name);
    if (weights.weight.rows == linear.out_features() && weights.weight.columns == linear.in_features())
        return;
    throw InvalidArgument(fmt::format("[quantize] {}: '{}.weight' must be {}[{},{}] for this model, got {}",
                                      pair.weights().path().string(), layer.prefix,
                                      to_string(weights.weight.data.dtype()), linear.out_features(),
                                      linear.in_features(), weights.weight.data.describe()));
}

using Built = std::map<std::string, std::unique_ptr<Linear>>;

// Static scales turn NaN into a number, so that nothing behind them would tell of a float layer's NaN.
void check_float_layers(const WanTransformer& model, const Built& built) {
    for (const std::string& name : model.linear_names()) {
        const auto* linear = dynamic_cast<const FloatLinear*>(&model.linear(name));
        if (linear == nullptr || built.contains(name)) continue;
        const std::string problem = finite_problem(name + ".weight", linear->weight());
        if (!problem.empty()) throw InvalidArgument("[quantize] the model's " + problem);
    }
}

Built build(const WanTransformer& model, const QuantizedPair& pair) {
    const std::vector<std::string> names = model.linear_names();
    Built built;
    bool any_static = false;
    for (const QuantizedLayer& layer : pair.layers()) {
        if (std::find(names.begin(), names.end(), layer.name) == names.end()) {
            throw InvalidArgument(fmt::format("[quantize] {}: the model has no Linear '{}'{}",
                                              pair.path().string(), layer.name,
                                              suggestion(layer.name, names)));
        }
        QuantizedLinearWeights weights = pair.read(layer, model.linear(layer.name).in_features());
        check_fits(model, pair, layer, weights);
        any_static = any_static || !weights.static_scales.empty();
        built[layer.name] = std::make_unique<QuantizedLinear>(std::move(weights));
    }
    if (any_static) check_float_layers(model, built);
    return built;
}

std::string why_float(const QuantizedPair& pair, const std::string& name) {
    const bool marked = pair.description().type_of(name + ".weight") == "FLOAT" ||
                        pair.description().type_of(name + ".linear.weight") == "FLOAT" ||
                        pair.description().type_of(name) == "FLOAT";
    return marked ? "marked FLOAT" : "not in the description";
}

// What an attention module becomes, or why it stays float.
struct AttentionChoice {
    std::string name;
    std::optional<AttentionQuantization> quantization;
    std::string why;
};
using Attentions = std::vector<AttentionChoice>;

Attentions read_attentions(const WanTransformer& model, const QuantizedPair& pair) {
    const std::vector<std::string> names = model.attention_names();
    const WanConfig& config = model.config();
    Attentions attentions;
    for (const QuantizedAttention& attention : pair.attentions()) {
        if (std::find(names.begin(), names.end(), attention.name) == names.end()) {
            throw InvalidArgument(fmt::format("[quantize] {}: the model has no attention '{}'{}",
                                              pair.path().string(), attention.name,
                                              suggestion(attention.name, names)));
        }
        AttentionChoice choice{attention.name, std::nullopt, ""};
        try {
            choice.quantization = pair.read(attention, config.num_attention_heads, config.attention_head_dim);
        } catch (const Unsupported& error) {
            choice.why = error.what();
        }
        attentions.push_back(std::move(choice));
    }
    return attentions;
}

Attentions online_attentions(const WanTransformer& model, const OnlineQuantConfig& config) {
    if (config.fa_quant_type.empty()) {
        if (config.fa_layers.empty()) return {};
        throw InvalidArgument("[quantize] fa_layers without fa_quant_type");
    }
    const AttentionType type = attention_type("quantize", config.fa_quant_type);
    if (type.calibrated) {
        throw InvalidArgument(
            fmt::format("[quantize] {} attention needs calibrated scales and comes from files; in "
                        "memory there is {}",
                        type.name, attention_format_row(type.format).file_type));
    }
    Attentions attentions;
    for (const std::string& name : select_attentions(model.attention_names(), config.fa_layers)) {
        attentions.push_back({name, dynamic_attention(type, model.config().attention_head_dim), ""});
    }
    return attentions;
}

void set_attentions(WanTransformer& model, Attentions attentions, QuantizeReport& report) {
    for (AttentionChoice& choice : attentions) {
        const std::string type = choice.quantization ? choice.quantization->quant_type : "FLOAT";
        report.layers.push_back({choice.name, type, choice.why, 0});
        model.set_attention(choice.name, std::move(choice.quantization));
    }
}

// Exchanges the layers and tells what happened to each; why(name) says why one stayed float.
template <typename Why>
QuantizeReport exchange(WanTransformer& model, Built built, const Why& why) {
    QuantizeReport report;
    report.bytes_before = model.weight_bytes();
    for (const std::string& name : model.linear_names()) {
        const auto found = built.find(name);
        if (found != built.end()) model.replace_linear(name, std::move(found->second));
        const Linear& linear = model.linear(name);
        const auto* layer = dynamic_cast<const QuantizedLinear*>(&linear);
        const std::int64_t groups = layer == nullptr ? 0 : layer->weights().weight.group_size;
        const std::string scheme = linear.scheme();
        report.layers.push_back({name, scheme, scheme == "FLOAT" ? why(name) : "", groups});
    }
    report.bytes_after = model.weight_bytes();
    return report;
}

// A scheme that needs no data; endings of its name go into `choices`.
const SchemeRow& online_scheme(const std::string& name, LayerChoices& choices) {
    const SchemeRow& scheme = scheme_with_choices(name, choices);
    if (!scheme.needs_calibration) return scheme;
    throw InvalidArgument(fmt::format(
        "[quantize] {} needs calibrated activation ranges and comes from files (aerogel quantize); "
        "in memory there are the schemes without calibration, such as W8A8_DYNAMIC",
        scheme.name));
}

// What each chosen layer becomes; null = float.
class OnlinePlan {
  public:
    OnlinePlan(const std::vector<std::string>& names, const OnlineQuantConfig& config)
        : choices_{config.algorithm,
                   "",
                   {config.group_size, config.symmetric},
                   config.rotation_block,
                   config.low_rank},
          scheme_(online_scheme(config.quant_type, choices_)) {
        check_choices(scheme_, choices_);
        if (needs_inputs(scheme_, choices_)) algorithm_row(config.algorithm, scheme_.weight);  // refuses
        for (const auto& [pattern, name] : config.fallback_layers) {
            patterns_.emplace_back(pattern);
            const bool is_float = upper_case(name) == "W16A16";
            const bool is_static = upper_case(name) == "W8A8";
            Chosen fallback;
            if (!is_float) {
                fallback.scheme = &online_scheme(is_static ? "W8A8_DYNAMIC" : name, fallback.choices);
            }
            fallbacks_.push_back(std::move(fallback));
            select_layers(names, {pattern}, {});  // refuses a pattern without a match
        }
        std::vector<std::string> include = config.include;
        if (include.empty()) include.emplace_back(kDefaultLayers);
        for (const std::string& name : select_layers(names, include, config.exclude)) choose(name);
    }

    bool contains(const std::string& name) const { return chosen_.contains(name); }
    std::unique_ptr<Linear> quantized(const std::string& name, const FloatLinear& linear) const {
        const Chosen& chosen = chosen_.at(name);
        if (chosen.scheme == nullptr) return nullptr;
        const FloatLayer layer = {name, linear.weight(), linear.bias()};
        return std::make_unique<QuantizedLinear>(quantize_float(layer, *chosen.scheme, chosen.choices));
    }
    std::string why_float(const std::string& name) const {
        return contains(name) ? "a fallback layer" : "not chosen by include and exclude";
    }

  private:
    struct Chosen {
        const SchemeRow* scheme = nullptr;
        LayerChoices choices = {.weight = {.group_size = kSchemeGroups}};
    };

    void choose(const std::string& name) {
        chosen_[name] = {&scheme_, choices_};
        for (std::size_t i = 0; i < fallbacks_.size(); ++i) {
            if (!patterns_[i].matches(name)) continue;
            chosen_[name] = fallbacks_[i];
            return;
        }
    }

    LayerChoices choices_;
    const SchemeRow& scheme_;
    std::vector<Chosen> fallbacks_;
    std::vector<NamePattern> patterns_;  // of the fallbacks
    std::map<std::string, Chosen> chosen_;
};

}  // namespace

QuantizeReport quantize(WanTransformer& model, const std::filesystem::path& description_path,
                        const QuantizeOptions& options) {
    const QuantizedPair pair = QuantizedPair::open(description_path, options.rank);
    auto built = build(model, pair);
    Attentions attentions = read_attentions(model, pair);
    QuantizeReport report =
        exchange(model, std::move(built), [&](const std::string& name) { return why_float(pair, name); });
    set_attentions(model, std::move(attentions), report);
    return report;
}

QuantizeReport quantize(WanTransformer& model, const OnlineQuantConfig& config) {
    const std::vector<std::string> names = model.linear_names();
    const OnlinePlan plan(names, config);
    Built built;
    for (const std::string& name : names) {
        const auto* linear = dynamic_cast<const FloatLinear*>(&model.linear(name));
        if (linear == nullptr || !plan.contains(name)) continue;
        if (auto layer = plan.quantized(name, *linear)) built[name] = std::move(layer);
    }
    model.check_intact();
    Attentions attentions = online_attentions(model, config);
    QuantizeReport report =
        exchange(model, std::move(built), [&](const std::string& name) { return plan.why_float(name); });
    set_attentions(model, std::move(attentions), report);
    return report;
}

}  // namespace aerogel
