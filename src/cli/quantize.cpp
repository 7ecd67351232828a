// aerogel quantize MODEL -o DIR --scheme NAME (or --recipe FILE): from a float checkpoint to a quantized
// pair.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/quantization_flags.h"
#include "cli/quantize_calibration.h"
#include "cli/quantize_report.h"
#include "core/json.h"
#include "core/paths.h"
#include "core/resumable_file.h"
#include "model/single_files.h"
#include "quant/algorithms/algorithm.h"
#include "quant/algorithms/hadamard.h"
#include "quant/attention.h"
#include "quant/calibration.h"
#include "quant/export.h"
#include "quant/layer_patterns.h"
#include "quant/recipe.h"
#include "quant/schemes.h"

namespace aerogel::cli {
namespace {

struct AttentionFlags {
    std::string quant_type;           ///< empty: attention stays float
    std::vector<std::string> layers;  ///< patterns

    /// True when q, k and v must be measured first.
    bool calibrated() const {
        return !quant_type.empty() && attention_type("quantize", quant_type).calibrated;
    }
};

struct QuantizeFlags {
    const CLI::App* command = nullptr;
    std::string model;
    std::string folder;
    std::string scheme;
    std::string recipe;
    std::vector<std::string> without;
    std::string algorithm = "minmax";
    std::vector<std::string> include;
    std::vector<std::string> exclude;
    std::string layout;
    int rank = -1;
    CalibrationFlags calibration;
    std::int64_t group_size = kSchemeGroups;
    bool asymmetric = false;
    bool packed = false;
    std::string rotation = "0";
    std::int64_t low_rank = 0;
    std::string smoothing;
    AttentionFlags attention;
    bool list = false;
    bool json = false;
};

void check_required(const QuantizeFlags& flags) {
    std::string missing;
    if (flags.model.empty()) missing += " MODEL";
    if (flags.folder.empty()) missing += " --output";
    if (flags.scheme.empty() && flags.recipe.empty()) missing += " --scheme";
    if (!missing.empty()) {
        throw InvalidArgument(fmt::format("[quantize] missing:{} (or give --list)", missing));
    }
    if (flags.recipe.empty()) {
        if (flags.without.empty()) return;
        throw InvalidArgument("[quantize] --without leaves entries out of a --recipe, but none is given");
    }
    for (const char* flag : {"--scheme", "--algorithm", "--include", "--exclude", "--group-size",
                             "--asymmetric", "--smooth", "--rotate", "--low-rank", "--fa", "--fa-layers"}) {
        if (flags.command->count(flag) == 0) continue;
        throw InvalidArgument(
            fmt::format("[quantize] the --recipe says how each layer is quantized: leave out {}", flag));
    }
}

LayerOptions options_of(const QuantizeFlags& flags) {
    LayerOptions options;
    options.algorithm = flags.algorithm;
    options.smoothing = flags.smoothing;
    if (options.smoothing.empty() && find_smoothing(options.algorithm) != nullptr) {
        options.smoothing = std::exchange(options.algorithm, "minmax");
    }
    options.weight.group_size = flags.group_size;
    options.weight.symmetric = !flags.asymmetric;
    const RotationShape rotation = parse_rotation(flags.rotation);
    options.rotation_block = rotation.block;
    options.rotation_kind = rotation.kind;
    options.low_rank = flags.low_rank;
    options.packed = flags.packed;
    return options_of_scheme(flags.scheme, std::move(options));
}

std::vector<std::string> or_default(const std::vector<std::string>& patterns, std::string_view otherwise) {
    return patterns.empty() ? std::vector{std::string(otherwise)} : patterns;
}

std::map<std::string, PlannedAttention> attentions_from_flags(const AttentionFlags& flags,
                                                              const std::vector<std::string>& linears,
                                                              std::string_view defaults) {
    std::map<std::string, PlannedAttention> attentions;
    if (flags.quant_type.empty()) {
        if (flags.layers.empty()) return attentions;
        throw InvalidArgument("[quantize] --fa-layers needs --fa");
    }
    const AttentionType type = attention_type("quantize", flags.quant_type);
    std::vector<std::string> modules;
    for (const std::string& linear : linears) {
        std::string module = attention_of_queries(linear);
        if (!module.empty()) modules.push_back(std::move(module));
    }
    for (const std::string& name : select_attentions(modules, or_default(flags.layers, defaults))) {
        attentions[name] = {flags.quant_type, type.rotates};
    }
    return attentions;
}

RecipePlan plan_from_flags(const QuantizeFlags& flags, const DefaultPatterns& defaults,
                           const std::vector<std::string>& linears, QuantizeResult& result) {
    result.options = options_of(flags);
    const std::vector<std::string> layers =
        select_layers(linears, or_default(flags.include, defaults.layers), flags.exclude);
    return {uniform_plan(layers, result.options),
            attentions_from_flags(flags.attention, linears, defaults.attentions),
            {}};
}

RecipePlan plan_from_recipe(const QuantizeFlags& flags, const std::vector<std::string>& linears,
                            QuantizeResult& result) {
    const Recipe recipe = read_recipe(flags.recipe, flags.without);
    RecipePlan plan = plan_of(recipe, linears);
    for (auto& [name, options] : plan.layers)
        options.packed = flags.packed && options.scheme->weight == Format::int4;
    result.recipe = flags.recipe;
    for (const auto& entry : recipe.left_out) result.notes.push_back(entry + " is left out");
    result.notes.insert(result.notes.end(), plan.notes.begin(), plan.notes.end());
    return plan;
}

bool any_scheme(const LayerPlan& plan, bool SchemeRow::*property) {
    return std::any_of(plan.begin(), plan.end(),
                       [&](const auto& layer) { return layer.second.scheme->*property; });
}

bool any_needs_inputs(const LayerPlan& plan) {
    return std::any_of(plan.begin(), plan.end(),
                       [](const auto& layer) { return needs_inputs(*layer.second.scheme, layer.second); });
}

std::int64_t head_dim_of(const std::filesystem::path& weights) {
    const JsonNode config = JsonNode::read(weights.parent_path() / "config.json", "quantize");
    return config.at("attention_head_dim").whole({1, 256});
}

// With rotations by the head size of the config.json beside `weights`, or with measured scales; modules
// without rotation hold none.
std::map<std::string, AttentionQuantization> quantized_attentions(
    const std::map<std::string, PlannedAttention>& plan, const std::filesystem::path& weights,
    const CalibrationStats* calibration) {
    std::map<std::string, AttentionQuantization> attentions;
    std::int64_t head_dim = 0;
    for (const auto& [name, how] : plan) {
        AttentionType type = attention_type("quantize", how.quant_type);
        type.rotates = how.rotated && !type.calibrated;
        if (type.rotates && head_dim == 0) head_dim = head_dim_of(weights);
        AttentionQuantization attention = dynamic_attention(type, head_dim);
        if (type.calibrated) attention.scales = calibration->attention().scales(name);
        attentions[name] = std::move(attention);
    }
    return attentions;
}

bool any_calibrated(const std::map<std::string, PlannedAttention>& plan) {
    return std::any_of(plan.begin(), plan.end(), [](const auto& module) {
        return attention_type("quantize", module.second.quant_type).calibrated;
    });
}

PairLayout layout_of(const std::string& name) {
    if (name == "comfy") return PairLayout::comfy;
    return name == "v0" ? PairLayout::v0 : PairLayout::v1;
}

ExportReport run_export(const QuantizeFlags& flags, const WeightFile& model, const RecipePlan& plan,
                        const CalibrationStats* calibration) {
    ExportOptions options;
    options.folder = flags.folder;
    options.rank = flags.rank;
    options.calibration = calibration;
    options.attentions = quantized_attentions(plan.attentions, model.path(), calibration);
    if (!flags.layout.empty()) options.layout = layout_of(flags.layout);
    std::unique_ptr<Progress> progress;
    double percent = 0;
    options.progress = [&](std::size_t done, std::size_t total, const std::string& tensor) {
        percent = 100.0 * static_cast<double>(done) / static_cast<double>(total);
        if (interrupted()) throw Cancelled("[quantize] stopped");
        if (!progress) progress = std::make_unique<Progress>("quantize", static_cast<std::int64_t>(total));
        progress->update(static_cast<std::int64_t>(done), tensor);
    };
    try {
        return export_quantized(model, plan.layers, options);
    } catch (const Cancelled&) {
        progress.reset();
        throw Cancelled(
            fmt::format("interrupted with {:.0f} % done; give the same command again to continue", percent));
    }
}

void run_quantize(const QuantizeFlags& flags) {
    if (flags.list) {
        if (flags.json) {
            print_json(scheme_list_json());
        } else {
            print_text(scheme_list_text());
        }
        return;
    }
    check_required(flags);
    const std::filesystem::path output = flags.folder;
    if (flags.layout == "comfy" && has_extension(output, ".safetensors")) {
        check_output_file("quantize", output, {flags.model});
    } else {
        check_output_folder("quantize", output);
    }
    QuantizeResult result;
    result.model = flags.model;
    const ModelWeights model = open_model_weights("quantize", flags.model, flags.rank);
    const std::vector<std::string> linears = linear_layers(model.file);
    result.linears = linears.size();
    const std::filesystem::path source = model.file.path();
    const bool of_diffusers =
        has_extension(source, ".gguf") || path_exists(source.parent_path() / "config.json");
    if (flags.layout == "comfy" && of_diffusers) {
        result.notes.emplace_back(
            "the tensors keep the names that diffusers gives them; ComfyUI looks for those of the model's "
            "own code");
    }
    const RecipePlan plan = flags.recipe.empty() ? plan_from_flags(flags, model.defaults, linears, result)
                                                 : plan_from_recipe(flags, linears, result);
    const bool inputs = any_needs_inputs(plan.layers);
    const bool attention = any_calibrated(plan.attentions);
    const Calibrates what = {plan.layers.begin()->second.scheme->name,
                             attention || any_scheme(plan.layers, &SchemeRow::needs_calibration), inputs};
    check_calibration_flags(*flags.command, flags.calibration, what);
    if (what.anything()) {
        CalibrationFlags wanted = flags.calibration;
        if (!inputs) wanted.options.sample_rows = 0;
        wanted.options.attention = attention;
        result.calibration = run_calibration(flags.model, wanted);
    }
    result.report =
        run_export(flags, model.file, plan, result.calibration ? &result.calibration->stats : nullptr);
    result.notes.insert(result.notes.end(), result.report.notes.begin(), result.report.notes.end());
    if (flags.json) {
        print_json(result_json(result));
    } else {
        print_text(result_text(result));
    }
}

void add_weight_options(CLI::App& command, QuantizeFlags& flags) {
    const std::string group = "Weights";
    add_group_size_flag(command, flags.group_size)->group(group);
    command.add_flag("--asymmetric", flags.asymmetric, "Scales with offsets (W8A16 and W4A16)")->group(group);
    command
        .add_option(
            "--smooth", flags.smoothing,
            "Move outliers of the inputs into the weights first: smoothquant, iter_smooth, flex_smooth "
            "or awq (giving it to --algorithm means --smooth with minmax)")
        ->group(group);
    add_rotation_flag(command, flags.rotation)->group(group);
    add_low_rank_flag(command, flags.low_rank)->group(group);
    command
        .add_flag("--packed", flags.packed,
                  "Two int4 values per byte in the file: half the size, but not every reader accepts them")
        ->group(group);
}

void add_attention_options(CLI::App& command, AttentionFlags& flags) {
    const std::string group = "Attention";
    command
        .add_option("--fa", flags.quant_type,
                    fmt::format("Quantize attention too: {} or, calibrated on captions, FAQUANT (int8)",
                                dynamic_attention_types()))
        ->group(group);
    command
        .add_option("--fa-layers", flags.layers,
                    fmt::format("Attention modules, by pattern; default {}", kDefaultAttentions))
        ->group(group);
}

void add_recipe_options(CLI::App& command, QuantizeFlags& flags) {
    const std::string group = "Recipe, instead of --scheme";
    command.add_option("--recipe", flags.recipe, "A YAML recipe of msmodelslim (multimodal_sd_modelslim_v1)")
        ->group(group);
    command
        .add_option("--without", flags.without,
                    "Leave entries of this type out of the recipe (fa3_quant, online_quarot ...); repeatable")
        ->group(group);
}

// Each name once; which formats it writes, the error of a wrong choice lists.
std::string algorithm_names() {
    std::vector<std::string_view> names;
    const auto add = [&](const auto& rows) {
        for (const auto& row : rows) {
            if (std::find(names.begin(), names.end(), row.name) == names.end()) names.push_back(row.name);
        }
    };
    add(algorithms());
    add(input_algorithms());
    add(smoothings());
    return fmt::format("{}", fmt::join(names, ", "));
}

constexpr const char* kExamples =
    "To continue an interrupted export, give the same command again.\n"
    "Examples:\n"
    "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A8_DYNAMIC\n"
    "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A16 --include 'blocks.*.ffn.*' \\\n"
    "      --exclude 'blocks.0.*'\n"
    "  aerogel quantize examples/shapes_dit -o quantized --scheme INT4 --group-size 32 --packed\n"
    "  aerogel quantize --list\n"
    "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A8_TIMESTEP --steps 20 --max-captions 2\n"
    "  aerogel quantize model.safetensors -o int8.safetensors --scheme W8A8_DYNAMIC --layout comfy --rotate "
    "convrot\n"
    "  aerogel quantize Wan2.2/low_noise_model -o quantized --recipe wan2_2_w4a4f8_mxfp_t2v.yaml\n";

}  // namespace

void add_quantize(CLI::App& app) {
    auto* command =
        app.add_subcommand("quantize", "Write a quantized pair (weights and description) of a model");
    auto flags = std::make_shared<QuantizeFlags>();
    flags->command = command;
    command->add_option("MODEL", flags->model,
                        "Diffusers folder, pipeline folder, .safetensors or .gguf file");
    command->add_option("-o,--output", flags->folder, "Folder for the two files");
    command->add_option("--scheme", flags->scheme,
                        fmt::format("How the layers are quantized: {}", scheme_names()));
    command->add_flag("--list", flags->list, "Print the table of schemes instead");
    command->add_option("--algorithm", flags->algorithm,
                        fmt::format("How stored values are chosen: {} (default minmax)", algorithm_names()));
    command->add_option(
        "--include", flags->include,
        fmt::format("Layers to quantize, by pattern (* ? [ab] {{a,b}}); default: those of the model's family "
                    "(docs/models.md), of a text encoder the Linears of its blocks, else {}",
                    kDefaultLayers));
    command->add_option("--exclude", flags->exclude, "Layers to leave float; wins over --include");
    command
        ->add_option(
            "--layout", flags->layout,
            "Layout of the files: v1 (default), v0, the older one of msmodelslim, or comfy, one file as "
            "ComfyUI reads it (--output may name it); W8A8_TIMESTEP is always written as v0")
        ->check(CLI::IsMember({"v0", "v1", "comfy"}));
    command
        ->add_option(
            "--rank", flags->rank,
            "Rank of a tensor-parallel shard (-1: none): reads NAME_{rank}.safetensors where the model "
            "has such files, and puts _{rank} at the end of both file names")
        ->check(whole_number(-1, kMostRanks));
    add_weight_options(*command, *flags);
    add_attention_options(*command, flags->attention);
    add_recipe_options(*command, *flags);
    add_calibration_options(*command, flags->calibration);
    command->add_flag("--json", flags->json, "Print the report as JSON");
    command->footer(kExamples);
    command->callback([flags] { run_quantize(*flags); });
}

}  // namespace aerogel::cli
