// The C++ front of quantize(), for tests/quant/test_model_plan.py: model_plan_run MODEL CASE.json
// IN.safetensors OUT.safetensors. CASE: {"description": path} or {"online": {quant_type, fallback_layers,
// include, exclude, group_size, fa_quant_type, fa_layers}}, and "policy" (a file) and "step". Prints what was
// decided; OUT gets what each quantized module computes of IN, and the whole model.
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "aerogel/attention.h"
#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"
#include "quant/attention.h"

namespace {

using namespace aerogel;
using Json = nlohmann::ordered_json;  // the order of fallbacks counts
using Outputs = std::map<std::string, Tensor>;

OnlineQuantConfig config_of(const Json& json) {
    OnlineQuantConfig config;
    config.quant_type = json.value("quant_type", config.quant_type);
    const Json fallbacks = json.value("fallback_layers", Json::object());
    for (const auto& [pattern, scheme] : fallbacks.items()) {
        config.fallback_layers.emplace_back(pattern, scheme.get<std::string>());
    }
    config.include = json.value("include", config.include);
    config.exclude = json.value("exclude", config.exclude);
    config.group_size = json.value("group_size", config.group_size);
    config.fa_quant_type = json.value("fa_quant_type", config.fa_quant_type);
    config.fa_layers = json.value("fa_layers", config.fa_layers);
    return config;
}

Tensor of_linear(const Linear& linear, const SafetensorsFile& in, const TransformerStep& step) {
    const Tensor x = in.tensor("x." + std::to_string(linear.in_features()));
    Tensor y(DType::f32, {x.dim(0), linear.out_features()});
    StepContext context = step.context;
    if (step.timestep_policy != nullptr) context = step.timestep_policy->context(context.timestep_index);
    linear.forward(x, y, context);
    return y;
}

Tensor of_attention(const AttentionQuantization& quantization, const SafetensorsFile& in,
                    const TransformerStep& step) {
    const Tensor q = in.tensor("q"), k = in.tensor("k"), v = in.tensor("v");
    Tensor o(DType::f32, q.shape());
    attention(q, k, v, o, attention_options(quantization, step.timestep_policy, step.context.timestep_index));
    return o;
}

Outputs outputs_of(const Transformer& model, const SafetensorsFile& in, const TransformerStep& step) {
    Outputs outputs;
    for (const std::string& name : model.linear_names()) {
        if (model.linear(name).scheme() == "FLOAT") continue;
        outputs.emplace("linear." + name, of_linear(model.linear(name), in, step));
    }
    for (const std::string& name : model.attention_names()) {
        const auto& quantization = model.attention(name).quantization;
        if (quantization) outputs.emplace("attention." + name, of_attention(*quantization, in, step));
    }
    TransformerInput input;
    input.hidden_states = in.tensor("hidden_states");
    input.timestep = in.tensor("timestep");
    input.encoder_hidden_states = in.tensor("encoder_hidden_states");
    outputs.emplace("model", model.forward(input, step));
    return outputs;
}

void run(char** argv) {
    const std::unique_ptr<Transformer> model = Transformer::load(argv[1]);
    const Json json = Json::parse(std::ifstream(argv[2]));
    const QuantizeReport report = json.contains("description")
                                      ? quantize(*model, json.at("description").get<std::string>())
                                      : quantize(*model, config_of(json.at("online")));
    for (const auto& layer : report.layers) {
        std::printf("%s\t%s\t%s\t%lld\n", layer.name.c_str(), layer.scheme.c_str(), layer.why.c_str(),
                    static_cast<long long>(layer.group_size));
    }
    const auto policy = json.contains("policy")
                            ? std::optional(TimestepPolicyConfig::read(json.at("policy").get<std::string>()))
                            : std::nullopt;
    TransformerStep step;
    step.context.timestep_index = json.value("step", -1);
    step.timestep_policy = policy ? &*policy : nullptr;
    save_safetensors(argv[4], outputs_of(*model, SafetensorsFile::open(argv[3]), step));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return 2;
    try {
        run(argv);
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
