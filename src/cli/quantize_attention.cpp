// From --fa and --fa-layers to the attention entries of a quantized pair.
#include "cli/quantize_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "core/json_node.h"
#include "quant/attention_types.h"
#include "quant/layer_patterns.h"

namespace aerogel::cli {
namespace {

std::vector<std::string> attention_modules(const std::vector<std::string>& linears) {
    std::vector<std::string> modules;
    for (const std::string& name : linears) {
        for (const std::string_view ending : {".to_q", ".q"}) {
            if (name.ends_with(ending)) modules.push_back(name.substr(0, name.size() - ending.size()));
        }
    }
    return modules;
}

std::int64_t head_dim_of(const std::filesystem::path& weights) {
    const JsonNode config = JsonNode::read(weights.parent_path() / "config.json", "quantize");
    return config.at("attention_head_dim").whole({1, 256});
}

}  // namespace

bool AttentionFlags::calibrated() const {
    return !quant_type.empty() && attention_type("quantize", quant_type).calibrated;
}

void add_attention_options(CLI::App& command, AttentionFlags& flags) {
    const std::string group = "Attention";
    command
        .add_option(
            "--fa", flags.quant_type,
            "Quantize attention too: FP8_DYNAMIC, MXFP8_DYNAMIC, MXFP4_DYNAMIC, INT8_DYNAMIC or, calibrated "
            "on captions, FAQUANT (int8)")
        ->group(group);
    command
        .add_option("--fa-layers", flags.layers,
                    fmt::format("Attention modules, by pattern; default {}", kDefaultAttentions))
        ->group(group);
}

std::map<std::string, AttentionQuantization> quantized_attentions(const AttentionFlags& flags,
                                                                  const std::filesystem::path& weights,
                                                                  const std::vector<std::string>& linears,
                                                                  const CalibrationStats* calibration) {
    std::map<std::string, AttentionQuantization> attentions;
    if (flags.quant_type.empty()) {
        if (flags.layers.empty()) return attentions;
        throw InvalidArgument("[quantize] --fa-layers belongs to --fa");
    }
    const AttentionType type = attention_type("quantize", flags.quant_type);
    const std::int64_t head_dim = type.rotates ? head_dim_of(weights) : 0;
    for (const std::string& name : select_attentions(attention_modules(linears), flags.layers)) {
        AttentionQuantization attention = dynamic_attention(type, head_dim);
        if (type.calibrated) attention.scales = calibration->attention().scales(name);
        attentions[name] = std::move(attention);
    }
    return attentions;
}

std::map<std::string, AttentionQuantization> planned_attentions(
    const std::map<std::string, AttentionPlan>& plan, const std::filesystem::path& weights,
    const CalibrationStats* calibration) {
    std::map<std::string, AttentionQuantization> attentions;
    for (const auto& [name, how] : plan) {
        AttentionType type = attention_type("quantize", how.quant_type);
        type.rotates = how.rotated && !type.calibrated;
        AttentionQuantization attention = dynamic_attention(type, type.rotates ? head_dim_of(weights) : 0);
        if (type.calibrated) attention.scales = calibration->attention().scales(name);
        attentions[name] = std::move(attention);
    }
    return attentions;
}

bool any_calibrated(const std::map<std::string, AttentionPlan>& plan) {
    return std::any_of(plan.begin(), plan.end(), [](const auto& module) {
        return attention_type("quantize", module.second.quant_type).calibrated;
    });
}

}  // namespace aerogel::cli
