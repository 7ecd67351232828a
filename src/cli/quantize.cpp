// aerogel quantize MODEL -o DIR --scheme NAME: from a float checkpoint to a quantized pair.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "cli/command.h"
#include "cli/model_files.h"
#include "cli/progress.h"
#include "cli/scheme_list.h"
#include "cli/video_size.h"
#include "model/calibrate.h"
#include "quant/algorithms/algorithm.h"
#include "quant/export.h"
#include "quant/layer_patterns.h"
#include "quant/schemes.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

struct QuantizeFlags {
    std::string model;
    std::string folder;
    std::string scheme;
    std::string algorithm = "minmax";
    std::vector<std::string> include;
    std::vector<std::string> exclude;
    int rank = -1;
    std::string captions;
    std::size_t max_captions = 0;
    std::string prompt_embeds;
    std::string calibration;
    std::string save_calibration;
    std::string size;
    CalibrateOptions calibrate;
    int first_static_step = 0;
    std::int64_t group_size = 0;
    bool asymmetric = false;
    bool packed = false;
    std::int64_t rotation_block = 0;
    std::int64_t low_rank = 0;
    bool list = false;
    bool json = false;
};

// How the activation ranges came about.
struct CalibrationRun {
    CalibrationStats stats;
    std::string source;
    std::size_t captions = 0;
};

void stop_if_interrupted() {
    if (interrupted()) throw Cancelled("[quantize] interrupted");
}

void choose_captions(const QuantizeFlags& flags, CalibrateOptions& options) {
    if (!flags.prompt_embeds.empty()) {
        options.prompt_embeds =
            SafetensorsFile::open(flags.prompt_embeds).tensor("prompt_embeds").to(DType::f32);
        return;
    }
    options.captions = flags.captions.empty() ? default_captions(flags.model) : read_captions(flags.captions);
    if (flags.max_captions != 0 && options.captions.size() > flags.max_captions) {
        options.captions.resize(flags.max_captions);
    }
}

CalibrationRun run_calibration(const QuantizeFlags& flags) {
    if (!flags.calibration.empty()) {
        return {CalibrationStats::load(flags.calibration), flags.calibration, 0};
    }
    CalibrateOptions options = flags.calibrate;
    if (!flags.size.empty()) {
        const VideoSize size = parse_video_size("quantize", flags.size);
        options.width = size.width;
        options.height = size.height;
    }
    choose_captions(flags, options);
    const Pipeline pipeline = Pipeline::load(flags.model);
    std::unique_ptr<Progress> progress;
    options.progress = [&](int done, int total) {
        if (!progress) progress = std::make_unique<Progress>("calibrate", total);
        progress->update(done);
        return !interrupted();
    };
    const std::size_t captions = options.prompt_embeds.defined()
                                     ? static_cast<std::size_t>(options.prompt_embeds.dim(0))
                                     : options.captions.size();
    CalibrationRun run{calibrate(pipeline, options), "captions", captions};
    if (!flags.save_calibration.empty()) run.stats.save(flags.save_calibration);
    return run;
}

void check_flags(const QuantizeFlags& flags, const SchemeRow& scheme) {
    const bool calibrates = !flags.captions.empty() || !flags.prompt_embeds.empty() ||
                            !flags.calibration.empty() || !flags.save_calibration.empty() ||
                            flags.calibrate.steps.has_value();
    if (calibrates && !scheme.needs_calibration) {
        throw InvalidArgument(
            fmt::format("[quantize] {} needs no calibration: leave out --captions, --steps, "
                        "--prompt-embeds, --calibration and --save-calibration",
                        scheme.name));
    }
    if (flags.first_static_step != 0 && !scheme.per_step) {
        throw InvalidArgument(
            fmt::format("[quantize] --first-static-step is for W8A8_TIMESTEP, not for {}", scheme.name));
    }
}

void check_first_static_step(const QuantizeFlags& flags, const std::optional<CalibrationRun>& calibration) {
    if (!calibration) return;
    const int steps = calibration->stats.steps();
    if (flags.first_static_step >= 0 && flags.first_static_step <= steps) return;
    throw InvalidArgument(
        fmt::format("[quantize] --first-static-step must be in [0, {}] (the steps calibrated), got {}", steps,
                    flags.first_static_step));
}

Json to_json(const QuantizeFlags& flags, const ExportReport& report,
             const std::optional<CalibrationRun>& calibration, std::size_t linears) {
    Json json = {{"model", flags.model},
                 {"scheme", report.quant_type},
                 {"group_size", flags.group_size},
                 {"algorithm", flags.algorithm},
                 {"description", report.description.string()},
                 {"weights", report.weights.string()},
                 {"bytes_before", report.bytes_before},
                 {"bytes_after", report.bytes_after},
                 {"linear_layers", linears},
                 {"quantized_layers", report.layers.size()},
                 {"layers", Json::array()}};
    if (calibration) {
        json["calibration"] = {{"source", calibration->source},
                               {"steps", calibration->stats.steps()},
                               {"first_static_step", flags.first_static_step}};
        if (calibration->captions != 0) json["calibration"]["captions"] = calibration->captions;
    }
    for (const auto& layer : report.layers) {
        json["layers"].push_back(
            {{"name", layer.name}, {"shape", {layer.n, layer.k}}, {"relative_error", layer.relative_error}});
    }
    return json;
}

std::string to_text(const ExportReport& report, const std::optional<CalibrationRun>& calibration,
                    std::size_t linears) {
    std::string text =
        fmt::format("{}: {} of {} Linear layers quantized, {} -> {}\n", report.quant_type,
                    report.layers.size(), linears, show_bytes(static_cast<double>(report.bytes_before)),
                    show_bytes(static_cast<double>(report.bytes_after)));
    if (calibration) {
        text += calibration->captions == 0 ? fmt::format("calibration from {}, {} steps\n",
                                                         calibration->source, calibration->stats.steps())
                                           : fmt::format("calibrated on {} captions, {} steps each\n",
                                                         calibration->captions, calibration->stats.steps());
    }
    const auto worst =
        std::max_element(report.layers.begin(), report.layers.end(),
                         [](const auto& a, const auto& b) { return a.relative_error < b.relative_error; });
    text += fmt::format("largest relative weight error: {:.2e} ({})\n", worst->relative_error, worst->name);
    text += fmt::format("{}\n{}", report.weights.string(), report.description.string());
    return text;
}

void check_required(const QuantizeFlags& flags) {
    std::string missing;
    if (flags.model.empty()) missing += " MODEL";
    if (flags.folder.empty()) missing += " --output";
    if (flags.scheme.empty()) missing += " --scheme";
    if (!missing.empty()) {
        throw InvalidArgument(fmt::format("[quantize] missing:{} (or give --list)", missing));
    }
}

void run_quantize(const QuantizeFlags& flags) {
    if (flags.list) {
        fmt::print("{}\n", flags.json ? scheme_list_json().dump(2) : scheme_list_text());
        return;
    }
    check_required(flags);
    LayerChoices choices = {
        flags.algorithm, {flags.group_size, !flags.asymmetric}, flags.rotation_block, flags.low_rank};
    const SchemeRow& scheme = scheme_with_choices(flags.scheme, choices);
    check_choices(scheme, choices);
    check_flags(flags, scheme);
    const SafetensorsFile model = SafetensorsFile::open(weights_of_model("quantize", flags.model));
    const std::vector<std::string> linears = linear_layers(model);
    std::vector<std::string> include = flags.include;
    if (include.empty()) include.emplace_back(kDefaultLayers);
    const std::vector<std::string> layers = select_layers(linears, include, flags.exclude);

    std::optional<CalibrationRun> calibration;
    if (scheme.needs_calibration) calibration = run_calibration(flags);
    check_first_static_step(flags, calibration);

    ExportOptions options;
    static_cast<LayerChoices&>(options) = choices;
    options.folder = flags.folder;
    options.scheme = &scheme;
    options.rank = flags.rank;
    options.packed = flags.packed;
    if (calibration) options.calibration = &calibration->stats;
    ExportReport report;
    {
        std::unique_ptr<Progress> progress;
        options.progress = [&](std::size_t done, std::size_t total, const std::string& tensor) {
            stop_if_interrupted();
            if (!progress)
                progress = std::make_unique<Progress>("quantize", static_cast<std::int64_t>(total));
            progress->update(static_cast<std::int64_t>(done), tensor);
        };
        report = export_quantized(model, layers, options);
    }
    fmt::print("{}\n", flags.json ? to_json(flags, report, calibration, linears.size()).dump(2)
                                  : to_text(report, calibration, linears.size()));
}

void add_weight_options(CLI::App& command, QuantizeFlags& flags) {
    const std::string group = "Weights";
    command
        .add_option("--group-size", flags.group_size,
                    "Columns that share a scale (int8, int4 and fp8 weights); 0: the whole row")
        ->check(CLI::IsMember({0, 32, 64, 128, 256}))
        ->group(group);
    command.add_flag("--asymmetric", flags.asymmetric, "Scales with offsets (W8A16 and W4A16)")->group(group);
    command
        .add_option("--rotate", flags.rotation_block,
                    "Rotate weights and inputs: columns per Hadamard transform, -1: as many as can be")
        ->group(group);
    command
        .add_option("--low-rank", flags.low_rank,
                    "Rank of a float branch beside the quantized residual (scheme W4A4_MXFP4_SVD: 32)")
        ->group(group);
    command
        .add_flag("--packed", flags.packed,
                  "Two int4 values per byte in the file: half the size, but not every reader takes them")
        ->group(group);
}

void add_calibration_options(CLI::App& command, QuantizeFlags& flags) {
    const std::string group = "Calibration (W8A8, W8A8_TIMESTEP)";
    command
        .add_option("--captions", flags.captions, "File with one caption per line (default: the model's own)")
        ->group(group);
    command.add_option("--max-captions", flags.max_captions, "Use at most this many captions (0: all)")
        ->group(group);
    command
        .add_option("--prompt-embeds", flags.prompt_embeds,
                    "A .safetensors with prompt_embeds [captions,len,dim], instead of captions")
        ->group(group);
    command
        .add_option("--steps", flags.calibrate.steps, "Sampling steps; W8A8_TIMESTEP keeps scales for each")
        ->group(group);
    command.add_option("--frames", flags.calibrate.frames, "Frames of the videos (fewer are cheaper)")
        ->group(group);
    command.add_option("--size", flags.size, "WIDTHxHEIGHT of the videos")->group(group);
    command.add_option("--guidance", flags.calibrate.guidance, "Classifier-free guidance scale")
        ->group(group);
    command.add_option("--seed", flags.calibrate.seed, "Seed of the first video's noise")->group(group);
    command.add_option("--save-calibration", flags.save_calibration, "Keep the measured ranges in this file")
        ->group(group);
    command.add_option("--calibration", flags.calibration, "Use ranges kept before, run nothing")
        ->group(group);
    command
        .add_option(
            "--first-static-step", flags.first_static_step,
            "W8A8_TIMESTEP: the step from which static scales are meant to be used (told to generate, "
            "not stored)")
        ->group(group);
}

// Each name once; which formats it writes, the error of a wrong choice lists.
std::string algorithm_names() {
    std::vector<std::string_view> names;
    for (const AlgorithmRow& row : algorithms()) {
        if (std::find(names.begin(), names.end(), row.name) == names.end()) names.push_back(row.name);
    }
    return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

void add_quantize(CLI::App& app) {
    auto* command =
        app.add_subcommand("quantize", "Write a quantized pair (weights and description) of a model");
    auto flags = std::make_shared<QuantizeFlags>();
    command->add_option("MODEL", flags->model, "Diffusers folder, pipeline folder or .safetensors file");
    command->add_option("-o,--output", flags->folder, "Folder for the two files");
    command->add_option("--scheme", flags->scheme, scheme_names());
    command->add_flag("--list", flags->list, "Print the table of schemes instead");
    command->add_option("--algorithm", flags->algorithm,
                        fmt::format("How stored values are chosen: {} (default minmax)", algorithm_names()));
    command->add_option(
        "--include", flags->include,
        fmt::format("Layers to quantize, by pattern (* ? [ab] {{a,b}}); default {}", kDefaultLayers));
    command->add_option("--exclude", flags->exclude, "Layers to leave float; wins over --include");
    command->add_option("--rank", flags->rank, "Rank behind the file names (-1: none)")
        ->check(CLI::Range(-1, 1 << 20));
    add_weight_options(*command, *flags);
    add_calibration_options(*command, *flags);
    command->add_flag("--json", flags->json, "Print the report as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A8_DYNAMIC\n"
        "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A16 --include 'blocks.*.ffn.*' \\\n"
        "      --exclude 'blocks.{0,1}.*'\n"
        "  aerogel quantize examples/shapes_dit -o quantized --scheme INT4 --group-size 64 --packed\n"
        "  aerogel quantize --list\n"
        "  aerogel quantize examples/shapes_dit -o quantized --scheme W8A8_TIMESTEP --steps 20 "
        "--max-captions 2\n");
    command->callback([flags] { run_quantize(*flags); });
}

}  // namespace aerogel::cli
