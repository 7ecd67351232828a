// What `tune` chooses from.
#include "quant/tune/choices.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <tuple>
#include <utility>

#include "aerogel/error.h"
#include "quant/export_layer.h"
#include "quant/recipe.h"
#include "quant/recipe_words.h"

namespace aerogel {
namespace {

const RecipeScheme* words_of(const LayerOptions& options) {
    const std::string_view scope = options.weight.group_size > 0 ? "per_group" : "per_channel";
    const RecipeScheme* found = nullptr;
    for (const RecipeScheme& row : kRecipeSchemes) {
        if (row.scheme != options.scheme->name) continue;
        const bool own = row.weight_scope != "per_group" && row.weight_scope != "per_channel";
        if (own || row.weight_scope == scope) found = &row;
    }
    return found;
}

std::vector<std::string> parts_of(std::string_view text) {
    std::vector<std::string> parts;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t end = std::min(text.find('/', at), text.size());
        parts.emplace_back(text.substr(at, end - at));
        at = end + 1;
    }
    return parts;
}

// Algorithms with words of their own in recipes.
std::string method_of(const std::string& algorithm, const RecipeScheme& words) {
    if (algorithm == "ceil_x_search") return "ceil_x";
    return algorithm == "minmax" && words.weight_scope == "dual_scale" ? "dualscale" : algorithm;
}

[[noreturn]] void refuse_words(std::string_view text) {
    std::vector<std::string_view> names;
    for (const RecipeScheme& row : kRecipeSchemes) {
        if (row.scheme != "W8A8" && (names.empty() || names.back() != row.scheme))
            names.push_back(row.scheme);
    }
    throw InvalidArgument(fmt::format("[tune] recipes have no words for {}; they have them for {}", text,
                                      fmt::join(names, ", ")));
}

}  // namespace

TuneScheme tune_scheme(std::string_view text) {
    const std::vector<std::string> parts = parts_of(text);
    LayerOptions options;
    options.weight.group_size = kSchemeGroups;
    std::size_t next = 1;
    std::int64_t group = 0;
    const auto is_number = [&](const std::string& part) {
        const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), group);
        return error == std::errc{} && end == part.data() + part.size();
    };
    if (next < parts.size() && !is_number(parts[next])) options.algorithm = parts[next++];
    if (next < parts.size() && is_number(parts[next])) {
        options.weight.group_size = group;
        ++next;
    }
    if (next != parts.size() || options.weight.group_size < kSchemeGroups) {
        throw InvalidArgument(fmt::format(
            "[tune] a scheme is SCHEME[/ALGORITHM][/GROUP], such as W4A8/gptq/32, got '{}'", text));
    }
    options = options_of_scheme(parts[0], std::move(options));
    if (options.scheme->needs_calibration) {
        throw Unsupported(
            fmt::format("[tune] {} has calibrated ranges, which is not supported here: give a scheme "
                        "whose ranges are found when it runs, such as W8A8_DYNAMIC",
                        options.scheme->name));
    }
    options.packed = options.scheme->weight == Format::int4;
    LayerOptions grouped = options;
    if (grouped.weight.group_size == kSchemeGroups) grouped.weight.group_size = options.scheme->group_size;
    if (options.weight.group_size == kSchemeGroups && words_of(grouped) == nullptr)
        options.weight.group_size = grouped.weight.group_size =
            0;  // recipes know it with a scale per row only
    const bool rotated = options.rotation_block != 0;
    if (rotated || words_of(grouped) == nullptr) refuse_words(text);
    try {  // what recipes can say, their reader knows
        parse_recipe(recipe_text({{"blocks.0.layer", grouped}}, {}, {}), "recipe");
    } catch (const Error&) {
        throw InvalidArgument(fmt::format("[tune] recipes have no words for the algorithm {} of {}",
                                          options.algorithm, options.scheme->name));
    }
    return {std::string(text), options};
}

std::optional<LayerOptions> options_for(const TuneScheme& scheme, const TuneLayer& layer) {
    LayerOptions options = scheme.options;
    const std::int64_t rows = layer.weight.shape[0], columns = layer.weight.shape[1];
    options.weight.group_size = group_size_of(*options.scheme, options.weight.group_size, columns);
    if (options.packed) {
        options.packed = (options.weight.group_size != 0 ? rows : columns) % 2 == 0;
        // A row alone can be packed where groups cannot, as `quantize` chooses too.
        if (!options.packed && scheme.options.weight.group_size == kSchemeGroups && columns % 2 == 0) {
            options.weight.group_size = 0;
            options.packed = true;
        }
    }
    if (words_of(options) == nullptr) return std::nullopt;
    try {
        stored_bytes(options, layer);
    } catch (const InvalidArgument&) {
        return std::nullopt;
    }
    return options;
}

std::size_t stored_bytes(const LayerOptions& options, const TuneLayer& layer) {
    LayerOptions plain = options;  // what is stored does not depend on the data
    if (find_input_algorithm(plain.algorithm, plain.scheme->weight) != nullptr) plain.algorithm = "minmax";
    const StoredForm form = {layer.weight, layer.bias, plain, PairLayout::v1, nullptr};
    check_form(form);
    std::size_t bytes = 0;
    for (const StoredTensor& tensor : stored_tensors(form)) bytes += tensor.info.bytes();
    return bytes;
}

namespace {

std::string quoted(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += fmt::format("      - \"{}\"\n", name);
    return text;
}

std::string entry_text(const LayerOptions& options, const std::vector<std::string>& names) {
    const RecipeScheme& words = *words_of(options);
    std::string act =
        words.act_dtype == "float"
            ? std::string("{dtype: float}")
            : fmt::format("{{dtype: {}, scope: {}, symmetric: True, method: {}}}", words.act_dtype,
                          words.act_scope, words.act_scope == "dual_scale" ? "dualscale" : "minmax");
    std::string ext;
    if (options.weight.group_size > 0)
        ext = fmt::format(", ext: {{group_size: {}}}", options.weight.group_size);
    if (options.algorithm == "ceil_x_search") ext = ", ext: {enable_search: True}";
    std::string text;
    if (options.low_rank != 0)
        text +=
            fmt::format("  - type: svd_res\n    rank: {}\n    include:\n{}", options.low_rank, quoted(names));
    return text +
           fmt::format(
               "  - type: linear_quant\n    qconfig:\n      act: {}\n      weight: {{dtype: {}, scope: {}, "
               "symmetric: True, method: {}{}}}\n    include:\n{}",
               act, words.weight_dtype, words.weight_scope, method_of(options.algorithm, words), ext,
               quoted(names));
}

std::string attention_text(std::string_view type, const std::vector<std::string>& names) {
    const auto* form = std::find_if(kRecipeAttentions.begin(), kRecipeAttentions.end(),
                                    [&](const RecipeAttentionForm& row) { return row.type == type; });
    return fmt::format(
        "  - type: online_quarot\n    include:\n{}  - type: fa3_quant\n    qconfig: {{dtype: {}, scope: "
        "{}, symmetric: True, method: minmax}}\n    include:\n{}",
        quoted(names), form->dtype, form->scope, quoted(names));
}

}  // namespace

std::string recipe_text(const LayerPlan& layers, const std::map<std::string, std::string>& attentions,
                        const std::vector<std::string>& comment) {
    using Key = std::tuple<std::string_view, std::string, std::int64_t, std::int64_t>;
    std::map<Key, std::pair<const LayerOptions*, std::vector<std::string>>> entries;
    for (const auto& [name, options] : layers) {
        auto& entry =
            entries[{options.scheme->name, options.algorithm, options.weight.group_size, options.low_rank}];
        entry.first = &options;
        entry.second.push_back(name);
    }
    std::map<std::string, std::vector<std::string>> modules;
    for (const auto& [name, type] : attentions) modules[type].push_back(name);
    std::string text;
    for (const std::string& line : comment) text += "# " + line + "\n";
    text += "apiversion: multimodal_sd_modelslim_v1\nspec:\n  process:\n";
    for (const auto& [key, entry] : entries) text += entry_text(*entry.first, entry.second);
    for (const auto& [type, names] : modules) text += attention_text(type, names);
    return text;
}

}  // namespace aerogel
