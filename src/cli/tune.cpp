// aerogel tune MODEL -o RECIPE --max-error X | --max-size Y: a mixture of schemes that keeps a budget.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/sampling_flags.h"
#include "cli/tune_report.h"
#include "core/atomic_file.h"
#include "core/paths.h"
#include "model/calibrate.h"
#include "model/tune.h"
#include "quant/float_layer.h"
#include "quant/tune/choices.h"
#include "quant/tune/journal.h"

namespace aerogel::cli {
namespace {

constexpr const char* kMeasuring = "Inputs to measure on";  // the group of these flags

struct TuneFlags {
    const CLI::App* command = nullptr;
    std::string model;
    std::string output;
    std::string max_size;
    std::string minimize = "size";
    std::string captions;
    std::size_t max_captions = 0;
    std::string inputs;
    std::string measurements;
    std::string calibration;
    bool saves_calibration = false;  // also where the chosen schemes look at no inputs
    std::string plot;
    int records = 8;
    SamplingFlags sampling;
    TuneOptions options;
    bool json = false;
};

// "1.9MB", "2GB", "40%" of the unchanged weights.
double bytes_of(const std::string& text, double whole) {
    constexpr std::pair<std::string_view, double> kUnits[] = {
        {"%", 0.0}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1.0}};
    double number = 0.0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    if (error == std::errc{} && std::isfinite(number) && number > 0.0) {
        for (const auto& [name, factor] : kUnits)
            if (unit == name) return factor == 0.0 ? number / 100.0 * whole : number * factor;
    }
    throw InvalidArgument(fmt::format(
        "[tune] --max-size must be like 1.9MB, 500kB, 2GB or 40% (of the unchanged weights), got '{}'",
        text));
}

// Files that are not named are written beside the recipe.
void name_outputs(TuneFlags& flags) {
    if (flags.measurements.empty()) flags.measurements = flags.output + ".measurements.json";
    const auto& schemes = flags.options.schemes;
    const bool inputs = std::any_of(schemes.begin(), schemes.end(), [](const std::string& text) {
        const TuneScheme scheme = tune_scheme(text);
        return needs_inputs(*scheme.options.scheme, scheme.options);
    });
    flags.saves_calibration = !flags.calibration.empty();
    if (flags.saves_calibration && !inputs) {
        throw InvalidArgument(
            fmt::format("[tune] --save-calibration has nothing to save: none of {} looks at inputs",
                        fmt::join(schemes, ", ")));
    }
    if (inputs && !flags.saves_calibration) flags.calibration = flags.output + ".calibration.safetensors";
}

void check_output_files(const TuneFlags& flags) {
    std::vector<std::filesystem::path> outputs;
    for (const std::string& output : {flags.output, flags.measurements, flags.calibration, flags.plot}) {
        if (output.empty()) continue;
        check_output_file("tune", output, {flags.model, flags.captions, flags.inputs});
        outputs.emplace_back(output);
    }
    check_distinct("tune", outputs);
}

void check_flags(const TuneFlags& flags) {
    if (flags.options.max_error.has_value() == !flags.max_size.empty())
        throw InvalidArgument("[tune] give --max-error or --max-size, one of them");
    if (!flags.max_size.empty()) bytes_of(flags.max_size, 1.0);
    if (!flags.inputs.empty()) {
        refuse_group(*flags.command, kMeasuring, "with --recorded-inputs",
                     {"--recorded-inputs", "--records", "--step-groups", "--measurements"});
    }
    check_output_files(flags);
}

std::vector<TuneRecord> recorded_from_captions(const Pipeline& pipeline, const TuneFlags& flags) {
    TuneCaptions from;
    from.captions = flags.captions.empty() ? default_captions(flags.model) : read_captions(flags.captions);
    if (flags.max_captions != 0 && from.captions.size() > flags.max_captions)
        from.captions.resize(flags.max_captions);
    from.sampling = sampling_options("tune", flags.sampling);
    from.records = flags.records;
    std::optional<Progress> progress;
    from.progress = [&](int done, int total) {
        if (!progress) progress.emplace("record", total);
        progress->update(done);
        return !interrupted();
    };
    return tune_records(pipeline, from);
}

// Wrong ones are told before anything is recorded.
TuneOptions checked_options(const TuneFlags& flags, Transformer& model) {
    TuneOptions options = flags.options;
    options.minimize_time = flags.minimize == "time";
    options.measurements = flags.measurements;
    if (!flags.max_size.empty())
        options.max_bytes = bytes_of(flags.max_size, static_cast<double>(model.weight_bytes()));
    check_tune(model, options);
    return options;
}

TunedModel run_with_progress(const TuneFlags& flags, Transformer& model, TuneOptions options,
                             const std::vector<TuneRecord>& records) {
    std::optional<Progress> progress;
    options.progress = [&](int done, int total, const std::string& what) {
        if (interrupted()) return false;
        if (done < 0) return true;
        if (!progress && total > 1) progress.emplace("tune", total);
        if (progress) progress->update(done, what);
        return true;
    };
    try {
        return tune(model, records, options);
    } catch (const Cancelled&) {
        progress.reset();
        if (!path_exists(flags.measurements)) throw Cancelled("interrupted; nothing was measured yet");
        throw Cancelled(
            fmt::format("interrupted; what was measured is in {}: give the same command again to continue",
                        flags.measurements));
    }
}

void write_results(const TuneFlags& flags, const TunedModel& tuned) {
    TuneReport report{flags.model, flags.output, flags.plot, {}, tuned, flags.minimize == "time"};
    if (flags.saves_calibration || tuned.needs_calibration) tuned.calibration.save(flags.calibration);
    if (tuned.needs_calibration) report.calibration = flags.calibration;
    write_file_atomically(flags.output, recipe_text(tuned.layers, tuned.attentions, recipe_comment(report)));
    if (!flags.plot.empty()) write_file_atomically(flags.plot, to_svg(report));
    if (flags.json) {
        print_json(to_json(report));
        return;
    }
    print_text(fmt::format("{}wrote {}; use it with\n  {}", to_text(report), flags.output, use_of(report)));
    if (!flags.plot.empty()) print_text("wrote " + flags.plot);
}

void run_tune(TuneFlags flags) {
    name_outputs(flags);
    check_flags(flags);
    if (flags.inputs.empty()) {
        check_tune_journal(flags.measurements, flags.options.step_groups,
                           static_cast<std::size_t>(flags.records));
        Pipeline pipeline = Pipeline::load(flags.model);
        const TuneOptions options = checked_options(flags, pipeline.transformer());
        const auto records = recorded_from_captions(pipeline, flags);
        write_results(flags, run_with_progress(flags, pipeline.transformer(), options, records));
        return;
    }
    const auto records = tune_records(flags.inputs, flags.records);
    const auto model = Transformer::load(flags.model);
    write_results(flags, run_with_progress(flags, *model, checked_options(flags, *model), records));
}

void add_measuring_flags(CLI::App& command, TuneFlags& flags) {
    command
        .add_option("--captions", flags.captions, "File with one caption per line (default: the model's own)")
        ->group(kMeasuring);
    command.add_option("--max-captions", flags.max_captions, "Use at most this many captions (0: all)")
        ->group(kMeasuring);
    command
        .add_option("--recorded-inputs", flags.inputs,
                    "A .safetensors file with recorded inputs of the transformer (see aerogel forward "
                    "--help), instead of "
                    "captions")
        ->group(kMeasuring);
    command
        .add_option("--records", flags.records,
                    "Forward passes to measure on, spread over captions and steps")
        ->capture_default_str()
        ->check(whole_number(1, 100000))
        ->group(kMeasuring);
    command
        .add_option("--step-groups", flags.options.step_groups, "Groups of steps; the error is kept in each")
        ->capture_default_str()
        ->check(whole_number(1, 1000))
        ->group(kMeasuring);
    command
        .add_option("--measurements", flags.measurements,
                    "File that keeps what was measured, to continue or for another budget (default: "
                    "OUTPUT.measurements.json)")
        ->group(kMeasuring);
    add_sampling_flags(command, flags.sampling, kMeasuring);
}

void add_choice_flags(CLI::App& command, TuneFlags& flags) {
    const std::string group = "Choices";
    command
        .add_option(
            "--schemes", flags.options.schemes,
            "What a Linear may become besides float: SCHEME[/ALGORITHM][/GROUP], such as W4A8/gptq/32")
        ->capture_default_str()
        ->delimiter(',')
        ->group(group);
    command
        .add_option(
            "--fa", flags.options.attentions,
            "What self-attention may become besides float: INT8_DYNAMIC ... (pays with --minimize time)")
        ->delimiter(',')
        ->group(group);
    command
        .add_option("--include", flags.options.include,
                    "Layers to tune, by pattern (default: attention and feed-forward)")
        ->group(group);
    command.add_option("--exclude", flags.options.exclude, "Layers that stay float")->group(group);
}

}  // namespace

void add_tune(CLI::App& app) {
    auto* command = app.add_subcommand("tune",
                                       "Measure how much each layer hurts in each scheme, and write a recipe "
                                       "that keeps a budget of error or size");
    auto flags = std::make_shared<TuneFlags>();
    flags->command = command;
    command->add_option("MODEL", flags->model, "Pipeline folder (transformer/, text_encoder/ ...)")
        ->required();
    command->add_option("-o,--output", flags->output, "The recipe (YAML), for aerogel quantize --recipe")
        ->required();
    command
        ->add_option("--max-error", flags->options.max_error,
                     "Largest |v - v of float| / |v of float| of the velocity, in every group of steps")
        ->check(real_number(1e-9, 1e3));
    command->add_option("--max-size", flags->max_size,
                        "Largest size of the weights: 1.9MB, 2GB, or 40% of the unchanged ones");
    command
        ->add_option("--minimize", flags->minimize,
                     "With --max-error: size, or time (of a forward pass on this machine)")
        ->capture_default_str()
        ->check(CLI::IsMember({"size", "time"}));
    add_choice_flags(*command, *flags);
    add_measuring_flags(*command, *flags);
    command->add_option("--plot", flags->plot, "Also draw error over size, beside the uniform schemes (SVG)");
    command->add_option(
        "--save-calibration", flags->calibration,
        "File for the inputs that algorithms such as gptq looked at, for quantize --calibration (default: "
        "OUTPUT.calibration.safetensors, where the recipe needs them)");
    command->add_flag("--json", flags->json, "Print everything that was measured as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel tune examples/shapes_dit -o recipe.yaml --max-error 0.05 --plot error.svg\n"
        "  aerogel tune examples/shapes_dit -o recipe.yaml --max-size 40% --schemes W8A8_DYNAMIC,W4A8/gptq\n"
        "  aerogel quantize examples/shapes_dit -o quantized --recipe recipe.yaml --packed");
    command->callback([flags] { run_tune(*flags); });
}

}  // namespace aerogel::cli
