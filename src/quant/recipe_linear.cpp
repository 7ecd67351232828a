// Data types and scopes of both sides name the scheme, the method of the weight names the algorithm.
#include "quant/recipe_linear.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "core/text.h"

namespace aerogel {
namespace {

struct Combination {
    std::string_view act_dtype, act_scope, weight_dtype, weight_scope;
    std::string_view scheme;
};

constexpr std::array<Combination, 14> kCombinations = {{
    {"int8", "per_tensor", "int8", "per_channel", "W8A8"},
    {"int8", "per_token", "int8", "per_channel", "W8A8_DYNAMIC"},
    {"int8", "per_token", "int4", "per_channel", "W4A8"},
    {"int8", "per_token", "int4", "per_group", "W4A8"},
    {"int4", "per_token", "int4", "per_channel", "W4A4_DYNAMIC"},
    {"fp8_e4m3", "per_token", "fp8_e4m3", "per_channel", "WFP8AFP8_DYNAMIC"},
    {"mxfp8", "per_block", "mxfp8", "per_block", "W8A8_MXFP8"},
    {"mxfp8", "per_block", "mxfp4", "per_block", "W4A8_MXFP"},
    {"mxfp4", "per_block", "mxfp4", "per_block", "W4A4_MXFP4"},
    {"mxfp4", "dual_scale", "mxfp4", "dual_scale", "W4A4_MXFP4_DUALSCALE"},
    {"float", "", "int8", "per_channel", "W8A16"},
    {"float", "", "int8", "per_group", "W8A16"},
    {"float", "", "int4", "per_channel", "W4A16"},
    {"float", "", "int4", "per_group", "W4A16"},
}};

// The value of a key, one of several words.
std::string choice(const RecipeNode& side, const char* key, const std::vector<std::string>& words) {
    const RecipeNode node = side.at(key);
    std::string word = node.text();
    if (std::find(words.begin(), words.end(), word) != words.end()) return word;
    node.fail(fmt::format("must be one of {}, got {}{}", fmt::join(words, ", "), in_quotes(word),
                          suggestion(word, words)));
}

struct Side {
    explicit Side(RecipeNode at) : node(std::move(at)) {
        node.check_keys({"scope", "dtype", "symmetric", "method", "ext"});
        dtype = choice(node, "dtype", {"float", "int8", "int4", "mxfp8", "mxfp4", "fp8_e4m3"});
        if (dtype == "float") return;
        scope = choice(node, "scope",
                       {"per_tensor", "per_channel", "per_group", "per_block", "per_token", "pd_mix",
                        "per_head", "dual_scale"});
        method = choice(node, "method",
                        {"minmax", "histogram", "mse_round", "ceil_x", "fouroversix", "ssz", "gptq",
                         "dualscale", "autoround", "none"});
        if (node.has("symmetric")) symmetric = node.at("symmetric").flag();
        if (node.has("ext")) {
            node.at("ext").check_keys({"enable_search", "ceil_x_value", "dual_block_size", "group_size",
                                       "axes", "aggregation_type", "step", "percdamp", "block_size"});
        }
    }

    bool has_ext(const char* key) const { return node.has("ext") && node.at("ext").has(key); }
    RecipeNode ext(const char* key) const { return node.at("ext").at(key); }

    RecipeNode node;
    std::string dtype;
    std::string scope;
    std::string method;
    bool symmetric = true;
};

const SchemeRow& scheme_of(const RecipeNode& qconfig, const Side& act, const Side& weight) {
    std::vector<std::string> known;
    for (const Combination& row : kCombinations) {
        const bool same = row.act_dtype == act.dtype && row.act_scope == act.scope &&
                          row.weight_dtype == weight.dtype && row.weight_scope == weight.scope;
        if (same) return scheme_row("recipe", row.scheme);
        known.push_back(fmt::format("{}{}{} + {} {}", row.act_dtype, row.act_scope.empty() ? "" : " ",
                                    row.act_scope, row.weight_dtype, row.weight_scope));
    }
    qconfig.refuse(
        fmt::format("activations {} {} with weights {} {} are not there; there are (act + weight): {}",
                    act.dtype, act.scope, weight.dtype, weight.scope, fmt::join(known, ", ")));
}

// What activations may ask for: min-max, or the mean ranges of calibration where they are static.
void check_act(const Side& act, const SchemeRow& scheme) {
    if (act.dtype == "float") return;
    const bool dual = act.scope == "dual_scale";
    const bool known = act.method == "minmax" || (dual && act.method == "dualscale");
    if (!known) act.node.at("method").refuse("for activations there is: minmax");
    if (!scheme.needs_calibration) {
        if (!act.symmetric) act.node.at("symmetric").refuse("dynamic activations are symmetric: set True");
        return;
    }
    if (act.symmetric) {
        act.node.refuse("activations with one calibrated scale have an offset here: set symmetric: False");
    }
    if (!act.has_ext("aggregation_type") || act.ext("aggregation_type").text() != "mean") {
        act.node.refuse(
            "the mean over all forwards is calibrated, not the extremes: set ext.aggregation_type: mean");
    }
}

std::string algorithm_of(const Side& weight) {
    const RecipeNode method = weight.node.at("method");
    if (weight.method == "gptq") {
        const bool own = weight.has_ext("percdamp") || weight.has_ext("block_size");
        if (own) weight.node.at("ext").refuse("percdamp and block_size are .01 and 128: leave them out");
        return weight.method;
    }
    if (weight.method == "autoround" || weight.method == "histogram") {
        method.refuse(fmt::format("{} of weights is not available in recipes: use minmax{}", weight.method,
                                  weight.dtype == "int8" || weight.dtype == "int4" ? " or ssz" : ""));
    }
    if (weight.method == "dualscale") {
        if (weight.has_ext("dual_block_size") && weight.ext("dual_block_size").integer() != 512) {
            weight.ext("dual_block_size").refuse("must be 512");
        }
        return "minmax";
    }
    if (weight.method != "ceil_x") return weight.method;
    if (weight.has_ext("enable_search") && weight.ext("enable_search").flag()) return "ceil_x_search";
    if (weight.has_ext("ceil_x_value") && weight.ext("ceil_x_value").number() != 7.25) {
        weight.ext("ceil_x_value").refuse("must be 7.25; enable_search: True finds the best of 6 to 12");
    }
    return "ceil_x";
}

}  // namespace

LayerOptions read_qconfig(const RecipeNode& qconfig) {
    qconfig.check_keys({"act", "weight"});
    const Side act(qconfig.at("act")), weight(qconfig.at("weight"));
    const SchemeRow& scheme = scheme_of(qconfig, act, weight);
    check_act(act, scheme);
    LayerOptions options;
    options.scheme = &scheme;
    options.weight.symmetric = weight.symmetric;
    if (!weight.symmetric && scheme.activation != Activation::none) {
        weight.node.at("symmetric").refuse(fmt::format("weights of {} are symmetric: set True", scheme.name));
    }
    if (weight.scope == "per_group") {
        options.weight.group_size = weight.has_ext("group_size") ? weight.ext("group_size").integer() : 256;
        if (options.weight.group_size < 1) weight.ext("group_size").fail("must be positive");
    }
    options.algorithm = algorithm_of(weight);
    const auto rows = algorithms();
    const bool there = std::any_of(rows.begin(), rows.end(), [&](const AlgorithmRow& row) {
        return row.name == options.algorithm && row.format == scheme.weight;
    });
    if (!there && find_input_algorithm(options.algorithm, scheme.weight) == nullptr) {
        weight.node.at("method").refuse(
            fmt::format("method {} does not write {}: use minmax", weight.method, to_string(scheme.weight)));
    }
    return options;
}

}  // namespace aerogel
