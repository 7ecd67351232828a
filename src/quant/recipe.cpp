// Reading a recipe: the frame of the file, its list of entries, and what the qconfigs of linear_quant and
// fa3_quant entries mean. Data types and scopes of both sides name the scheme, the method of the weight names
// the algorithm.
#include "quant/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <vector>

#include "aerogel/error.h"
#include "core/input_file.h"
#include "core/text.h"
#include "quant/recipe_words.h"
#include "quant/recipe_yaml.h"

namespace aerogel {
namespace {

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
    for (const RecipeScheme& row : kRecipeSchemes) {
        const bool same = row.act_dtype == act.dtype && row.act_scope == act.scope &&
                          row.weight_dtype == weight.dtype && row.weight_scope == weight.scope;
        if (same) return scheme_row("recipe", row.scheme);
        known.push_back(fmt::format("{}{}{} + {} {}", row.act_dtype, row.act_scope.empty() ? "" : " ",
                                    row.act_scope, row.weight_dtype, row.weight_scope));
    }
    qconfig.refuse(fmt::format(
        "activations {} {} with weights {} {} are not supported; supported are (act + weight): {}", act.dtype,
        act.scope, weight.dtype, weight.scope, fmt::join(known, ", ")));
}

// What activations may ask for: min-max, or the mean ranges of calibration where they are static.
void check_act(const Side& act, const SchemeRow& scheme) {
    if (act.dtype == "float") return;
    const bool dual = act.scope == "dual_scale";
    const bool known = act.method == "minmax" || (dual && act.method == "dualscale");
    if (!known) act.node.at("method").refuse("activations only support minmax");
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
        method.refuse(fmt::format("{} of weights is not supported in recipes: use minmax{}", weight.method,
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

std::string type_of(const RecipeNode& qconfig) {
    qconfig.check_keys({"scope", "dtype", "symmetric", "method", "ext"});
    const std::string dtype = qconfig.at("dtype").text(), scope = qconfig.at("scope").text();
    if (qconfig.has("symmetric") && !qconfig.at("symmetric").flag()) {
        qconfig.at("symmetric").refuse("q, k and v are quantized without offsets: set True");
    }
    if (qconfig.has("method") && qconfig.at("method").text() != "minmax") {
        qconfig.at("method").refuse("attention only supports minmax");
    }
    std::vector<std::string> known;
    for (const RecipeAttentionForm& form : kRecipeAttentions) {
        if (form.dtype == dtype && form.scope == scope) return std::string(form.type);
        known.push_back(fmt::format("{} {}", form.dtype, form.scope));
    }
    qconfig.refuse(fmt::format("attention in {} {} is not supported; supported are: {}", dtype, scope,
                               fmt::join(known, ", ")));
}

std::string read_fa3_quant(const RecipeNode& entry) {
    if (entry.has("qconfig") && entry.has("details")) {
        entry.fail("has both qconfig and details: give one");
    }
    if (entry.has("qconfig")) return type_of(entry.at("qconfig"));
    if (!entry.has("details")) return "FAQUANT";  // int8 with a scale per head
    const RecipeNode details = entry.at("details");
    details.check_keys({"fa_q", "fa_k", "fa_v"});
    const std::string type = type_of(details.at("fa_q"));
    if (type_of(details.at("fa_k")) != type || type_of(details.at("fa_v")) != type) {
        details.refuse("q, k and v of different types are not supported: use one qconfig");
    }
    return type;
}

void check_online_quarot(const RecipeNode& entry) {
    if (entry.has("block_size") && entry.at("block_size").integer() != -1) {
        entry.at("block_size").refuse("must be -1: whole heads are rotated");
    }
}

using Words = std::vector<std::string>;

constexpr std::string_view kVersion = "multimodal_sd_modelslim_v1";

// Entries that msmodelslim has and whose processing is not there, with what to use instead.
struct Refusal {
    std::string_view type;
    std::string_view instead;
};
constexpr std::array<Refusal, 10> kRefusals = {{
    {"smooth_quant", "use iter_smooth"},
    {"flex_smooth_quant", "use iter_smooth"},
    {"flex_awq_ssz", "use linear_quant with the weight method ssz"},
    {"awq", "use linear_quant with the weight method ssz"},
    {"oasq", "use iter_smooth"},
    {"quarot", "weights are not rotated: use linear_quant with mxfp8 for sensitive layers"},
    {"autoround_quant", "use linear_quant with the weight method ssz"},
    {"trainable_linear_quant", "nothing is trained: use linear_quant with ceil_x or mse_round"},
    {"gptq", "use linear_quant with the weight method ssz"},
    {"group", "write its entries one after the other"},
}};

// Keys of the entries that are refused or left out, so that a wrong one is told first.
Words keys_of(const std::string& type) {
    if (type == "linear_quant") return {"type", "qconfig", "include", "exclude"};
    if (type == "online_quarot") return {"type", "include", "exclude", "block_size"};
    if (type == "fa3_quant") return {"type", "qconfig", "details", "include", "exclude"};
    if (type == "svd_res") return {"type", "rank", "include", "exclude"};
    if (type == "iter_smooth") {
        return {"type", "alpha", "scale_min", "symmetric", "enable_subgraph_type", "include", "exclude"};
    }
    return {};
}

Words type_names() {
    Words names = {"linear_quant", "svd_res", "iter_smooth", "online_quarot", "fa3_quant"};
    for (const Refusal& row : kRefusals) names.emplace_back(row.type);
    return names;
}

Words patterns(const RecipeNode& entry, const char* key, Words otherwise) {
    if (!entry.has(key)) return otherwise;
    Words result;
    for (const RecipeNode& item : entry.items(key)) result.push_back(item.text());
    return result;
}

// svd_res: only a rank, 32 when nothing is said.
LayerOptions read_branch(const RecipeNode& entry) {
    LayerOptions options;
    options.low_rank = 32;
    if (!entry.has("rank")) return options;
    options.low_rank = entry.at("rank").integer();
    if (options.low_rank < 1) entry.at("rank").fail("must be positive");
    return options;
}

// iter_smooth with its own defaults: every layer by itself, 1/s beside it.
LayerOptions read_smoothing(const RecipeNode& entry) {
    if (entry.has("alpha") && entry.at("alpha").number() != 0.9) {
        entry.at("alpha").refuse("must be 0.9, the default");
    }
    if (entry.has("scale_min") && entry.at("scale_min").number() != 1e-5) {
        entry.at("scale_min").refuse("must be 1e-5, the default");
    }
    if (entry.has("symmetric") && !entry.at("symmetric").flag()) {
        entry.at("symmetric").refuse("smoothing without shifts only: set True");
    }
    const Words types = {"norm-linear", "linear-linear", "ov", "up-down"};
    for (const RecipeNode& item : entry.items("enable_subgraph_type")) {
        if (std::find(types.begin(), types.end(), item.text()) == types.end()) {
            item.fail(fmt::format("must be one of {}, got {}{}", fmt::join(types, ", "),
                                  in_quotes(item.text()), suggestion(item.text(), types)));
        }
    }
    LayerOptions options;
    options.smoothing = "iter_smooth";
    return options;
}

void read_entry(const RecipeNode& entry, const Words& without, Recipe& recipe) {
    const RecipeNode type_node = entry.at("type");
    const std::string type = type_node.text();
    const Words types = type_names();
    if (std::find(types.begin(), types.end(), type) == types.end()) {
        type_node.fail(fmt::format("must be one of {}, got {}{}", fmt::join(types, ", "), in_quotes(type),
                                   suggestion(type, types)));
    }
    if (const Words keys = keys_of(type); !keys.empty()) entry.check_keys(keys);
    if (std::find(without.begin(), without.end(), type) != without.end()) {
        recipe.left_out.push_back(fmt::format("{} ({})", type, entry.place()));
        return;
    }
    for (const Refusal& row : kRefusals) {
        if (row.type != type) continue;
        entry.refuse(fmt::format("{} is not supported: {} (--without {} leaves such entries out)", type,
                                 row.instead, type));
    }
    const Words include = patterns(entry, "include", {"*"}), exclude = patterns(entry, "exclude", {});
    if (type == "fa3_quant" || type == "online_quarot") {
        if (type == "online_quarot") check_online_quarot(entry);
        const std::string attention = type == "fa3_quant" ? read_fa3_quant(entry) : "";
        recipe.attentions.push_back({entry.place(), attention, include, exclude});
        return;
    }
    const LayerOptions options = type == "svd_res"       ? read_branch(entry)
                                 : type == "iter_smooth" ? read_smoothing(entry)
                                                         : read_qconfig(entry.at("qconfig"));
    recipe.entries.push_back({entry.place(), options, include, exclude});
}

void check_save(const RecipeNode& spec) {
    for (const RecipeNode& save : spec.items("save")) {
        save.check_keys({"type", "part_file_size", "ext"});
        const RecipeNode type = save.at("type");
        if (type.text() != "mindie_format_saver") {
            type.refuse("must be mindie_format_saver, got " + in_quotes(type.text()));
        }
        if (save.has("part_file_size") && save.at("part_file_size").integer() != 0) {
            save.at("part_file_size").refuse("must be 0: readers of such pairs take one file");
        }
    }
}

void check_spec(const RecipeNode& spec) {
    spec.check_keys({"runner", "prior", "dataset", "process", "per_expert", "save", "multimodal_sd_config"});
    if (!spec.items("prior").empty()) spec.at("prior").refuse("is not supported: leave it out");
    if (spec.has("per_expert")) {
        spec.at("per_expert").refuse("is not supported: give each expert's folder a recipe of its own");
    }
    if (spec.has("runner")) spec.at("runner").text();
    if (spec.has("dataset")) spec.at("dataset").text();
    if (spec.has("multimodal_sd_config")) {
        const RecipeNode config = spec.at("multimodal_sd_config");
        config.check_keys({"dump_config", "inference_config", "model_config"});
        if (config.has("dump_config")) {
            config.at("dump_config").check_keys({"enable_dump", "capture_mode", "dump_data_dir"});
        }
    }
    check_save(spec);
}

// Other keys may hold what the spec refers to by "*name".
void check_frame(const RecipeNode& root, const RecipeOutline& outline) {
    const Words known = {"apiversion", "metadata", "spec"};
    const std::set<std::string> used = outline.used_by("spec");
    for (const std::string& key : root.keys()) {
        if (std::find(known.begin(), known.end(), key) != known.end() || used.contains(key)) continue;
        root.check_keys(known);
    }
    const RecipeNode version = root.at("apiversion");
    if (version.text() != kVersion) {
        version.refuse(fmt::format("must be {}, got {}", kVersion, in_quotes(version.text())));
    }
    if (!root.has("metadata")) return;
    const RecipeNode metadata = root.at("metadata");
    metadata.check_keys({"config_id", "score", "verified_model_types", "verified_tags", "label"});
    if (metadata.has("label")) {
        metadata.at("label").check_keys({"w_bit", "a_bit", "is_sparse", "kv_cache", "fa_quant", "fa_bit"});
    }
}

}  // namespace

Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& without) {
    constexpr std::size_t kLimit = 1'000'000;
    const Words types = type_names();
    for (const std::string& type : without) {
        if (std::find(types.begin(), types.end(), type) != types.end()) continue;
        throw InvalidArgument(fmt::format("[recipe] there is no entry type {}{}; there are: {}",
                                          in_quotes(type), suggestion(type, types), fmt::join(types, ", ")));
    }
    return parse_recipe(read_text_file(path, "recipe", kLimit), path, without);
}

Recipe parse_recipe(const std::string& text, const std::filesystem::path& path,
                    const std::vector<std::string>& without) {
    try {
        const RecipeOutline outline(text, "[recipe] " + path.string());
        const RecipeNode root(YAML::Load(text), path.string(), "");
        check_frame(root, outline);
        const RecipeNode spec = root.at("spec");
        check_spec(spec);
        Recipe recipe;
        recipe.path = path;
        for (const RecipeNode& entry : spec.items("process")) read_entry(entry, without, recipe);
        const bool any = std::any_of(recipe.entries.begin(), recipe.entries.end(),
                                     [](const RecipeEntry& entry) { return !entry.prepares(); });
        if (!any) spec.fail("has no linear_quant entry under process");
        return recipe;
    } catch (const YAML::Exception& error) {
        throw InvalidArgument(fmt::format("[recipe] {}:{}: not readable as YAML: {}", path.string(),
                                          error.mark.line + 1, printable(error.msg)));
    }
}

}  // namespace aerogel
