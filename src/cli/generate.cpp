// aerogel generate MODEL --prompt ...: from a caption to a video file, and a report of what was done.
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"
#include "aerogel/threads.h"
#include "base/clock.h"
#include "base/cpu_features.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/quantization_flags.h"
#include "cli/sampling_flags.h"
#include "cli/sparse_flags.h"
#include "cli/timings_report.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/video/video_file.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateReport {
    std::string model;
    std::string description;  ///< of the quantized files, or empty
    std::string online;       ///< the scheme quantized to in memory, or empty
    GenerateOptions options;  ///< with all defaults filled in
    GenerateResult result;
    std::optional<QuantizeReport> quantized;
    std::size_t float_bytes = 0;   ///< transformer weights as stored before quantizing
    std::size_t weight_bytes = 0;  ///< and as they ran
    std::int64_t peak_memory_bytes = 0;
    std::vector<std::string> outputs;
    std::optional<TimingsReport> timings;
};

double median(std::vector<double> values) {
    if (values.empty()) return 0.0;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

struct SparseSummary {
    double density = 0.0;  ///< mean over all calls
    double predict_seconds = 0.0;
    double attention_seconds = 0.0;
    int predicted = 0;  ///< calls that chose their mask or head types, not those that were given them
    std::map<std::string, int> head_types;
    std::map<std::string, int> stayed_dense;  ///< calls by the reason
};

SparseSummary summarize(const std::vector<SparseCall>& calls) {
    SparseSummary summary;
    for (const SparseCall& call : calls) {
        summary.density += call.report.density() / static_cast<double>(calls.size());
        summary.predict_seconds += call.report.predict_seconds;
        summary.attention_seconds += call.report.attention_seconds;
        summary.predicted += call.report.predicted ? 1 : 0;
        for (const SparseHead& head : call.report.heads) ++summary.head_types[std::string(head.type)];
        if (!call.report.dense_because.empty()) ++summary.stayed_dense[call.report.dense_because];
    }
    return summary;
}

// The same figures step by step.
Json steps_json(const std::vector<SparseCall>& calls) {
    std::map<int, std::vector<SparseCall>> by_step;
    for (const SparseCall& call : calls) by_step[call.step].push_back(call);
    Json steps = Json::array();
    for (const auto& [step, of_step] : by_step) {
        const SparseSummary summary = summarize(of_step);
        steps.push_back({{"step", step},
                         {"density", summary.density},
                         {"predicted_calls", summary.predicted},
                         {"predict_seconds", summary.predict_seconds},
                         {"attention_seconds", summary.attention_seconds},
                         {"head_types", summary.head_types},
                         {"stayed_dense", summary.stayed_dense}});
    }
    return steps;
}

Json sparse_json(const GenerateReport& report) {
    const SparsePattern& pattern = report.options.sparse->pattern;
    const SparseSummary summary = summarize(report.result.sparse_calls);
    Json json = {{"type", pattern.type},
                 {"sparsity", pattern.sparsity},
                 {"block_size", pattern.block_size},
                 {"density", summary.density},
                 {"predict_seconds", summary.predict_seconds},
                 {"attention_seconds", summary.attention_seconds},
                 {"head_types", summary.head_types},
                 {"stayed_dense", summary.stayed_dense}};
    json["steps"] = steps_json(report.result.sparse_calls);
    Json calls = Json::array();
    for (const SparseCall& call : report.result.sparse_calls) {
        Json heads = Json::array();
        for (const SparseHead& head : call.report.heads) {
            heads.push_back({{"type", head.type}, {"recall", head.recall}, {"density", head.density}});
        }
        calls.push_back({{"step", call.step},
                         {"block", call.block},
                         {"conditional", call.conditional},
                         {"heads", heads}});
    }
    json["calls"] = std::move(calls);
    return json;
}

Json quantized_json(const GenerateReport& report) {
    std::map<std::string, int> schemes;
    for (const auto& layer : report.quantized->layers) ++schemes[layer.scheme];
    if (!report.online.empty()) return {{"online", report.online}, {"layers", schemes}};
    return {{"description", report.description}, {"layers", schemes}};
}

Json to_json(const GenerateReport& report) {
    const GenerateOptions& options = report.options;
    const SamplingOptions& sampling = options.sampling;
    Json json = {
        {"model", report.model},
        {"prompt", options.prompt},
        {"seed", sampling.seed},
        {"steps", *sampling.steps},
        {"guidance", *sampling.guidance},
        {"image_first", *sampling.image_first},
        {"stagger", *sampling.stagger},
        {"frames", *sampling.frames},
        {"width", *sampling.width},
        {"height", *sampling.height},
        {"cpu", {{"name", cpu_name()}, {"level", to_string(cpu_level())}, {"threads", num_threads()}}},
        {"float_bytes", report.float_bytes},
        {"weight_bytes", report.weight_bytes},
        {"peak_memory_bytes", report.peak_memory_bytes},
        {"seconds_per_step", median(report.result.step_seconds)},
        {"step_seconds", report.result.step_seconds},
        {"first_frame_seconds", report.result.first_frame_seconds}};
    if (report.quantized) json["quantized"] = quantized_json(report);
    if (options.sparse) json["sparse"] = sparse_json(report);
    if (report.timings) json["timings"] = to_json(*report.timings);
    json["outputs"] = report.outputs;
    return json;
}

std::string to_text(const GenerateReport& report) {
    double total = 0.0;
    for (const double seconds : report.result.step_seconds) total += seconds;
    std::string text = fmt::format("{} steps in {} ({} per step), weights {}, peak memory {}",
                                   *report.options.sampling.steps, show_seconds(total),
                                   show_seconds(median(report.result.step_seconds)),
                                   show_bytes(static_cast<double>(report.weight_bytes)),
                                   show_bytes(static_cast<double>(report.peak_memory_bytes)));
    if (report.quantized) {
        const auto& layers = report.quantized->layers;
        const auto floats =
            std::count_if(layers.begin(), layers.end(), [](const auto& l) { return l.scheme == "FLOAT"; });
        text += fmt::format("\nquantized: {} of {} layers",
                            static_cast<std::ptrdiff_t>(layers.size()) - floats, layers.size());
    }
    if (report.options.sparse) {
        const SparseSummary summary = summarize(report.result.sparse_calls);
        text += fmt::format("\n{}: density {:.1f} %, prediction {}, attention {}, heads:",
                            report.options.sparse->pattern.type, 100 * summary.density,
                            show_seconds(summary.predict_seconds), show_seconds(summary.attention_seconds));
        for (const auto& [type, count] : summary.head_types) text += fmt::format(" {} {}", count, type);
        for (const auto& [reason, calls] : summary.stayed_dense)
            text += fmt::format("\n{} of {} calls stayed dense: {}", calls, report.result.sparse_calls.size(),
                                reason);
    }
    if (report.timings) text += "\n" + to_text(*report.timings);
    for (const auto& output : report.outputs) text += "\nwrote " + output;
    return text;
}

struct GenerateFlags {
    std::string model;
    std::string prompt;
    std::string negative_prompt;
    std::string prompt_embeds;
    QuantizationFlags quantization;
    SparseFlags sparse;
    SamplingFlags sampling;
    double frames_per_second = 8.0;
    std::string first_frame;
    std::vector<std::string> outputs;
    bool timings = false;
    bool json = false;
};

GenerateOptions to_options(const Transformer& model, const GenerateFlags& flags) {
    GenerateOptions options;
    options.prompt = flags.prompt;
    options.negative_prompt = flags.negative_prompt;
    options.sampling = sampling_options("generate", flags.sampling);
    if (!flags.prompt_embeds.empty()) {
        const auto file = SafetensorsFile::open(flags.prompt_embeds);
        options.prompt_embeds = file.tensor("prompt_embeds").to(DType::f32);
        if (file.contains("negative_prompt_embeds")) {
            options.negative_prompt_embeds = file.tensor("negative_prompt_embeds").to(DType::f32);
        }
    }
    if (!flags.first_frame.empty())
        options.first_frame = SafetensorsFile::open(flags.first_frame).tensor("first_frame").to(DType::f32);
    options.timestep_policy = timestep_policy(model, flags.quantization);
    options.sparse = sparse_config(flags.sparse);
    return options;
}

// Parents are made, so an output may be a file in a folder that is not there yet.
void check_outputs(const GenerateFlags& flags) {
    const std::vector<std::filesystem::path> inputs = {flags.prompt_embeds, flags.first_frame,
                                                       flags.sparse.profile, flags.quantization.files};
    for (auto output = flags.outputs.begin(); output != flags.outputs.end(); ++output) {
        const std::filesystem::path path = *output;
        if (std::find(flags.outputs.begin(), output, *output) != output)
            throw InvalidArgument(fmt::format("[generate] the output '{}' is given twice", *output));
        const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
        if (path.extension().empty()) {
            check_output_folder("generate", path);
        } else if (is_folder(folder)) {
            check_output_file("generate", path, inputs);
        } else {
            check_output_folder("generate", folder);
        }
    }
}

void run_generate(const GenerateFlags& flags) {
    check_outputs(flags);
    GenerateReport report;
    Pipeline pipeline = Pipeline::load(flags.model);
    for (const auto& output : flags.outputs)
        check_video_path(output, pipeline.transformer().config().out_channels);
    report.float_bytes = pipeline.transformer().weight_bytes();
    report.quantized = quantize_as_told(pipeline.transformer(), flags.quantization);
    report.weight_bytes = pipeline.transformer().weight_bytes();
    report.options = pipeline.with_defaults(to_options(pipeline.transformer(), flags));
    {
        std::optional<Timings> timings;
        if (flags.timings) timings.emplace();
        Progress progress("generate", *report.options.sampling.steps);
        report.options.progress = [&](int step, int, double seconds) {
            progress.update(step, show_seconds(seconds) + "/step");
            return !interrupted();
        };
        const auto start = Clock::now();
        report.result = pipeline.generate(report.options);
        if (timings) report.timings = {timings->operations(), seconds_since(start)};
    }
    for (const auto& output : flags.outputs)
        write_video(output, report.result.video, flags.frames_per_second);
    report.outputs = flags.outputs;
    report.model = flags.model;
    report.description = flags.quantization.files;
    report.online = flags.quantization.online.quant_type;
    report.peak_memory_bytes = peak_memory_bytes();
    if (flags.json) {
        print_json(to_json(report));
    } else {
        print_text(to_text(report));
    }
}

}  // namespace

void add_generate(CLI::App& app) {
    auto* command =
        app.add_subcommand("generate", "Make a video from a caption: float or quantized, dense or sparse");
    auto flags = std::make_shared<GenerateFlags>();
    command->add_option("MODEL", flags->model, "Pipeline folder (transformer/, text_encoder/ ...)")
        ->required();
    command->add_option("--prompt", flags->prompt, "The caption");
    command->add_option("--negative-prompt", flags->negative_prompt,
                        "Caption to steer away from (default: none)");
    command->add_option("--prompt-embeds", flags->prompt_embeds,
                        "A .safetensors file with prompt_embeds [1,len,dim] (and negative_prompt_embeds), "
                        "instead of --prompt");
    add_quantization_flags(*command, flags->quantization);
    add_sparse_flags(*command, flags->sparse);
    add_sampling_flags(*command, flags->sampling);
    command->add_option(
        "--first-frame", flags->first_frame,
        "A .safetensors file with first_frame [channels,1,height,width]: the video continues it");
    command->add_option("--fps", flags->frames_per_second, "Frames per second of .mp4 and .gif")
        ->capture_default_str()
        ->check(real_number(0.1, 240.0));
    command
        ->add_option("-o,--output", flags->outputs,
                     "Where to write the video: a .mp4, .gif or .safetensors (exact values) file, or a "
                     "folder for PNG files; "
                     "repeatable")
        ->required();
    command->add_flag("--timings", flags->timings,
                      "Also tell where the time went: calls, seconds, rate and share of the peak of each "
                      "operation");
    command->add_flag("--json", flags->json, "Print the report as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel generate examples/shapes_dit --prompt \"red circle moves left\" -o video.mp4\n"
        "  aerogel generate examples/shapes_dit --prompt \"blue star turns\" -o v.gif -o v.safetensors \\\n"
        "      --quantized quantized/quant_model_description_w8a8_dynamic.json --sparse rf_v2 --sparsity 0.8 "
        "--json\n"
        "  aerogel generate examples/shapes_dit --prompt \"green triangle moves up\" -o v.gif --online "
        "W4A4_MXFP4 \\\n"
        "      --fallback 'blocks.0.*=W8A8_DYNAMIC'\n"
        "  aerogel generate examples/shapes_dit --prompt \"cyan star turns\" -o v.mp4 --profile "
        "profile.json");
    command->callback([flags] { run_generate(*flags); });
}

}  // namespace aerogel::cli
