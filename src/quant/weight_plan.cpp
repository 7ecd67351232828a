// Layers of a file of weights: as they are stored, or by a scheme that is asked for.
#include "quant/weight_plan.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/finite.h"
#include "core/text.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

std::string weight_of(const std::string& layer) {
    return layer + ".weight";
}

Tensor bias_of(const WeightFile& file, const std::string& layer) {
    const std::string name = layer + ".bias";
    return file.contains(name) ? file.tensor(name) : Tensor();
}

void check_finite(const WeightFile& file, const std::string& name, const Tensor& values) {
    const std::string problem = finite_problem(name, values);
    if (!problem.empty()) throw InvalidArgument(fmt::format("[read] {}: {}", file.path().string(), problem));
}

// The scheme that computes what the file stores; empty: float.
std::string scheme_as_stored(const std::string& type) {
    if (type == "Q8_0") return "W8A16";
    return type == "Q4_0" ? "W4A16" : "";
}

void check_weight(const WeightFile& file, const ModelModule& module) {
    const std::string name = weight_of(module.name);
    const Shape wanted = {module.out_features, module.in_features};
    const Shape& shape = file.info(name).shape;
    if (file.fits(name, wanted)) return;
    throw InvalidArgument(fmt::format("[quantize] {}: {} must be {} for this model, got {}",
                                      file.path().string(), in_quotes(name), to_string(wanted),
                                      to_string(shape)));
}

ModuleDecision decided(const ModelModules& model, std::size_t index, const WeightFile& file,
                       const FileChoices& choices, const std::string& unselected) {
    const ModelModule& module = model.modules[index];
    ModuleDecision decision;
    decision.module = index;
    decision.type = "FLOAT";
    check_weight(file, module);
    const std::string stored = file.stored_type(weight_of(module.name));
    const std::string own = scheme_as_stored(stored);
    decision.why = unselected.empty() ? module.unfit : unselected;
    if (!decision.why.empty()) return decision;
    const std::string wanted = choices.type_of ? choices.type_of(module.name, stored, false) : "";
    const bool as_stored = wanted.empty() || wanted == stored;
    if (as_stored && !file.program().empty() && is_quant_type(stored)) {
        decision.type = stored;
        decision.quantizes = true;
        return decision;
    }
    if (as_stored ? own.empty() : upper_case(wanted) == "FLOAT") {
        decision.why = as_stored ? fmt::format("{} in the file", stored) : "as asked for";
        return decision;
    }
    decision.choices.weight.group_size = as_stored ? 32 : kSchemeGroups;
    decision.scheme = &scheme_with_choices(as_stored ? own : wanted, decision.choices);
    check_choices(*decision.scheme, decision.choices);
    if (decision.scheme->needs_calibration)
        throw InvalidArgument(fmt::format("[quantize] {}: {} needs calibration", module.name, wanted));
    decision.type = quant_type_of(*decision.scheme, decision.choices);
    decision.quantizes = true;
    return decision;
}

}  // namespace

std::optional<QuantizedLinearWeights> layer_as_stored(const WeightFile& file, const std::string& name) {
    const std::string weight = weight_of(name);
    QuantizedLinearWeights layer;
    if (auto foreign = file.foreign_layer(weight)) {
        layer = std::move(*foreign);
    } else {
        auto quantized = file.quantized(weight);
        if (!quantized) return std::nullopt;
        check_finite(file, "the scales of " + weight, quantized->scale);
        layer.scheme = scheme_as_stored(file.stored_type(weight));
        layer.weight = std::move(*quantized);
    }
    const Tensor bias = bias_of(file, name);
    if (bias.defined()) check_finite(file, name + ".bias", bias);
    if (bias.defined()) layer.bias = bias.to(DType::f32);
    layer.stored_bytes = file.stored_bytes(weight) + (bias.defined() ? bias.bytes() : 0);
    return layer;
}

ModelPlan plan_from_weights(const ModelModules& model, const WeightFile& file, const FileChoices& choices) {
    LayerSelection selection = choices.selection;
    if (!selection.include) selection.include = {"*"};
    const std::vector<std::string> unselected = why_not_chosen(model, selection);
    std::vector<ModuleDecision> decisions;
    for (std::size_t i = 0; i < model.modules.size(); ++i) {
        if (!model.modules[i].is_attention)
            decisions.push_back(decided(model, i, file, choices, unselected[i]));
    }
    return {std::move(decisions), model.modules};
}

QuantizedLinearWeights read_from_weights(const WeightFile& file, const ModelModule& module,
                                         const ModuleDecision& decision) {
    auto stored = layer_as_stored(file, module.name);
    if (stored && decision.scheme == nullptr) return std::move(*stored);
    if (stored && stored->scheme == decision.type &&
        stored->weight.group_size == decision.choices.weight.group_size)
        return std::move(*stored);
    const FloatLayer layer = {module.name, file.tensor(weight_of(module.name)), bias_of(file, module.name)};
    QuantizedLinearWeights weights = quantize_float(layer, *decision.scheme, decision.choices);
    file.check_intact();
    return weights;
}

}  // namespace aerogel
