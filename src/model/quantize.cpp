// quantize(model, ...): the plan (quant/model_plan.h) decides; here everything is read, checked and packed
// first, then all layers are exchanged, so that an error leaves the model as it was.
#include "aerogel/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "core/finite.h"
#include "core/reused_memory.h"
#include "core/text.h"
#include "model/automatic.h"
#include "model/linears_by_name.h"
#include "model/quantize.h"
#include "quant/model_plan.h"
#include "quant/schemes.h"

namespace aerogel {
namespace {

ModelModules modules_of(const LayeredModel& model) {
    ModelModules listed;
    listed.default_layers = model.default_layers();
    listed.default_attentions = model.default_attentions();
    for (const std::string& name : model.linear_names()) {
        const Linear& linear = model.linear(name);
        ModelModule module;
        module.name = name;
        module.out_features = linear.out_features();
        module.in_features = linear.in_features();
        if (const auto* quantized = dynamic_cast<const QuantizedLinear*>(&linear)) {
            module.scheme = quantized->scheme();
            module.group_size = quantized->weights().weight.group_size;
        } else if (dynamic_cast<const FloatLinear*>(&linear) == nullptr) {
            module.unfit = "is a Linear of a kind of its own";
        }
        listed.modules.push_back(std::move(module));
    }
    for (const std::string& name : model.attention_names()) {
        const AttentionSlot& attention = model.attention(name);
        ModelModule module;
        module.name = name;
        module.is_attention = true;
        module.heads = module.kv_heads = attention.heads;
        module.head_dim = attention.head_dim;
        listed.modules.push_back(std::move(module));
    }
    return listed;
}

// The pair under the model's names: a checkpoint of another program may have those of the model's own code.
QuantizedPair pair_for(const LayeredModel& model, const std::filesystem::path& description_path, int rank) {
    QuantizedPair pair = QuantizedPair::open(description_path, rank);
    const std::vector<std::string> own = model.linear_names();
    const std::set<std::string> known(own.begin(), own.end());
    const auto by_name = linears_by_name(model);
    pair.rename_layers([&](const std::string& name) {
        const auto found = by_name.find(lookup_name(name));
        if (known.contains(name) || found == by_name.end()) return std::vector<std::string>();
        std::vector<std::string> names(found->second.front().parts);
        for (const NamedPart& part : found->second)
            if (part.parts == names.size() && !part.swap_halves) names[part.part] = part.linear;
        const bool all = std::find(names.begin(), names.end(), "") == names.end();
        return all ? names : std::vector<std::string>();
    });
    return pair;
}

using Built = std::map<std::string, std::unique_ptr<Linear>>;

// Static scales turn NaN into a number, so that nothing behind them would tell of a float layer's NaN.
void check_float_layers(const LayeredModel& model, const Built& built) {
    for (const std::string& name : model.linear_names()) {
        const auto* linear = dynamic_cast<const FloatLinear*>(&model.linear(name));
        if (linear == nullptr || built.contains(name)) continue;
        const StoredWeight& stored = linear->stored();
        const std::string problem = finite_problem(name + ".weight", stored.read().to(Device::cpu));
        if (stored.check) stored.check();
        if (stored.release) stored.release();
        if (!problem.empty()) throw InvalidArgument("[quantize] the model's " + problem);
    }
}

QuantizeReport apply(LayeredModel& model, const ModelPlan& plan, Built built) {
    QuantizeReport report;
    report.bytes_before = model.weight_bytes();
    for (const ModuleDecision& decision : plan.decisions()) {
        const ModelModule& module = plan.module_of(decision);
        if (module.is_attention) {
            report.layers.push_back({module.name, decision.type, decision.why, 0});
            model.set_attention(module.name, decision.attention);
            continue;
        }
        if (decision.quantizes) model.replace_linear(module.name, std::move(built.at(module.name)));
        const Linear& linear = model.linear(module.name);
        const auto* layer = dynamic_cast<const QuantizedLinear*>(&linear);
        const std::int64_t groups = layer == nullptr ? 0 : layer->weights().weight.group_size;
        report.layers.push_back({module.name, linear.scheme(), decision.why, groups});
    }
    report.bytes_after = model.weight_bytes();
    return report;
}

// Where the arrays of a layer come from.
struct LayerReader {
    std::function<std::size_t(const ModuleDecision&)> prefetch;  ///< how many bytes are now being read
    std::function<QuantizedLinearWeights(const ModuleDecision&)> read;
    std::function<void(const ModuleDecision&)> release;  ///< once the layer is packed
};

using LoadProgress = std::function<void(double done)>;

// Layer by layer, so that beside what is packed only one layer is in memory. Meanwhile the disk has so much
// to read that it never waits: asking for it costs next to nothing.
Built build(const ModelPlan& plan, Device device, const LayerReader& reader, const LoadProgress& progress) {
    constexpr std::size_t kAhead = std::size_t{256} << 20;
    std::vector<const ModuleDecision*> layers;
    for (const ModuleDecision& decision : plan.decisions())
        if (!decision.is_attention && decision.quantizes) layers.push_back(&decision);
    Built built;
    const ReusedMemory reused;          // what a layer has beside its packed form
    std::deque<std::size_t> announced;  // bytes of the layers from this one on
    std::size_t ahead = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
        while (i + announced.size() < layers.size() && (announced.empty() || ahead < kAhead)) {
            announced.push_back(reader.prefetch(*layers[i + announced.size()]));
            ahead += announced.back();
        }
        built[plan.module_of(*layers[i]).name] =
            std::make_unique<QuantizedLinear>(reader.read(*layers[i]), device, KeptArrays::packed_weight);
        reader.release(*layers[i]);
        ahead -= announced.front();
        announced.pop_front();
        if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(layers.size()));
    }
    return built;
}

QuantizeReport quantize_from_files(LayeredModel& model, const std::filesystem::path& description_path,
                                   int rank, const LoadProgress& progress) {
    const QuantizedPair pair = pair_for(model, description_path, rank);
    const ModelPlan plan = plan_from_files(modules_of(model), pair, {});
    bool any_static = false;
    const auto each_tensor = [&](const ModuleDecision& decision, auto&& f) {
        for (const std::string& name : tensors_of(pair.layers().at(decision.entry)))
            if (pair.weights().contains(name)) f(name);
    };
    const LayerReader reader = {
        [&](const ModuleDecision& decision) {
            each_tensor(decision, [&](const std::string& name) { pair.weights().prefetch(name); });
            return pair.stored_bytes(pair.layers().at(decision.entry));
        },
        [&](const ModuleDecision& decision) {
            QuantizedLinearWeights weights = plan.read(pair, decision);
            any_static = any_static || weights.steps() != 0;
            return weights;
        },
        [&](const ModuleDecision& decision) {
            each_tensor(decision, [&](const std::string& name) { pair.weights().release(name); });
        }};
    Built built = build(plan, model.device(), reader, progress);
    if (any_static) check_float_layers(model, built);
    return apply(model, plan, std::move(built));
}

QuantizeReport quantize_in_memory(LayeredModel& model, const OnlineQuantConfig& config,
                                  const LoadProgress& progress) {
    const ModelPlan plan = plan_in_memory(modules_of(model), config);
    const auto float_layer = [&](const ModuleDecision& decision) -> const FloatLinear& {
        return dynamic_cast<const FloatLinear&>(model.linear(plan.module_of(decision).name));
    };
    const LayerReader reader = {
        [&](const ModuleDecision& decision) {
            const StoredWeight& stored = float_layer(decision).stored();
            if (stored.prefetch) stored.prefetch();
            return stored.stored_bytes;
        },
        [&](const ModuleDecision& decision) {
            const FloatLinear& linear = float_layer(decision);
            const Tensor bias = linear.bias().defined() ? linear.bias().to(Device::cpu) : Tensor();
            const FloatLayer layer = {plan.module_of(decision).name, linear.weight().to(Device::cpu), bias};
            return quantize_float(layer, *decision.scheme, decision.choices);
        },
        [&](const ModuleDecision& decision) {
            if (const auto& drop = float_layer(decision).stored().release) drop();
        }};
    Built built = build(plan, model.device(), reader, progress);
    model.check_intact();
    return apply(model, plan, std::move(built));
}

std::vector<SizedLinear> sized_linears(const LayeredModel& model) {
    std::vector<SizedLinear> sized;
    for (const std::string& name : model.linear_names()) {
        const Linear& linear = model.linear(name);
        const auto* stored = dynamic_cast<const FloatLinear*>(&linear);
        SizedLinear& one = sized.emplace_back();
        one.name = name;
        one.shape = {linear.out_features(), linear.in_features()};
        if (stored == nullptr)
            one.quantized_bytes = linear.weight_bytes();
        else
            one.dtype = stored->stored().dtype;
    }
    return sized;
}

void quantize_if_large(LayeredModel& model, const LoadOptions& options, double memory) {
    if (model.device() != Device::cpu) return;
    const auto chosen =
        choose_schemes(sized_linears(model), {model.default_layers(), model.automatic_schemes(), memory});
    if (!chosen) return;
    QuantizeReport report = quantize_in_memory(model, chosen->config, options.on_progress);
    report.because = fmt::format(
        "quantized to {} while loading: float weights would take {}, more than half of {} of memory",
        chosen->scheme, show_bytes(chosen->float_bytes), show_bytes(memory));
    if (options.on_quantized) options.on_quantized(report);
}

}  // namespace

QuantizeReport quantize(LayeredModel& model, const std::filesystem::path& description_path,
                        const QuantizeOptions& options) {
    return quantize_from_files(model, description_path, options.rank, {});
}

QuantizeReport quantize(LayeredModel& model, const OnlineQuantConfig& config) {
    return quantize_in_memory(model, config, {});
}

void check_load_options(const LoadOptions& options) {
    const std::string files = options.quantized.string();
    if (!files.empty() && options.online) {
        throw InvalidArgument(
            fmt::format("[load] either quantized files or a scheme in memory, got {} and {}", files,
                        options.online->quant_type));
    }
    if (options.rank < -1 || (options.rank >= 0 && files.empty())) {
        throw InvalidArgument(
            fmt::format("[load] rank is that of a quantized pair, from 0 on, or -1, got {}{}", options.rank,
                        files.empty() ? " and no pair (quantized)" : ""));
    }
    if (!files.empty() && !options.loras.empty()) {
        throw InvalidArgument(fmt::format(
            "[lora] {}: LoRA is merged into float weights, but the layers are read from quantized files ({})",
            options.loras.front().path.string(), files));
    }
}

void check_quantization(const LayeredModel& model, const LoadOptions& options) {
    if (!options.quantized.empty())
        plan_from_files(modules_of(model), pair_for(model, options.quantized, options.rank), {});
    else if (options.online)
        plan_in_memory(modules_of(model), *options.online);
}

void quantize_as_loaded(LayeredModel& model, const LoadOptions& options, double memory) {
    check_load_options(options);
    const bool files = !options.quantized.empty();
    if (!files && !options.online) {
        if (options.automatic) quantize_if_large(model, options, memory);
        return;
    }
    const QuantizeReport report =
        files ? quantize_from_files(model, options.quantized, options.rank, options.on_progress)
              : quantize_in_memory(model, *options.online, options.on_progress);
    if (options.on_quantized) options.on_quantized(report);
}

TimestepPolicyConfig policy_static_from(const LayeredModel& model, int step) {
    TimestepPolicyConfig policy = TimestepPolicyConfig::static_from(step);
    for (const std::string& name : model.linear_names()) {
        const auto* layer = dynamic_cast<const QuantizedLinear*>(&model.linear(name));
        if (layer == nullptr || !scheme_row("timestep", layer->weights().scheme).per_step) continue;
        if (const std::int64_t steps = layer->weights().steps(); step > steps) {
            throw InvalidArgument(fmt::format(
                "[timestep] {}: the first static step must be in [0, {}] (the file's steps), got {}", name,
                steps, step));
        }
    }
    return policy;
}

}  // namespace aerogel
