// Sums of steps and sparse calls, as JSON and as text.
#include "cli/generate_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "aerogel/threads.h"
#include "base/cpu_features.h"
#include "cli/command.h"
#include "core/text.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

// Shorter stages are left out where people read.
constexpr double kWorthTelling = 0.1;

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
    if (calls.empty()) summary.density = 1.0;
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
    const SparseSummary summary = summarize(report.results.front().sparse_calls);
    Json json = {{"type", pattern.type},
                 {"sparsity", pattern.sparsity},
                 {"block_size", pattern.block_size},
                 {"centroids", pattern.centroids},
                 {"density", summary.density},
                 {"predict_seconds", summary.predict_seconds},
                 {"attention_seconds", summary.attention_seconds},
                 {"head_types", summary.head_types},
                 {"stayed_dense", summary.stayed_dense}};
    json["steps"] = steps_json(report.results.front().sparse_calls);
    Json calls = Json::array();
    for (const SparseCall& call : report.results.front().sparse_calls) {
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

std::map<std::string, int> layer_counts(const std::vector<QuantizeReport>& reports) {
    std::map<std::string, int> schemes;
    for (const QuantizeReport& report : reports) {
        for (const auto& layer : report.layers) ++schemes[layer.scheme];
    }
    return schemes;
}

// The scheme of most layers.
std::string main_scheme(const std::vector<QuantizeReport>& reports) {
    const auto counts = layer_counts(reports);
    const auto most = std::max_element(counts.begin(), counts.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    return most == counts.end() ? std::string() : most->first;
}

void add_file(Json& json, const char* key, const std::filesystem::path& file) {
    if (!file.empty()) json[key] = file.string();
}

void add_loras(Json& json, const char* key, const std::vector<LoraFile>& loras) {
    for (const LoraFile& lora : loras)
        json[key].push_back({{"file", lora.path.string()}, {"weight", lora.weight}});
}

// Files that were given beside the folder.
void add_files(Json& json, const GenerateReport& report) {
    add_file(json, "prompt_embeds", report.prompt_embeds);
    add_file(json, "first_frame", report.first_frame);
    add_file(json, "last_frame", report.options.last_image);
    add_file(json, "transformer", report.load.weights);
    add_file(json, "transformer_2", report.load_2.weights);
    add_loras(json, "loras", report.load.loras);
    add_loras(json, "loras_2", report.load_2.loras);
}

Json quantized_json(const GenerateReport& report) {
    Json json;
    if (report.load.online) json["online"] = report.load.online->quant_type;
    add_file(json, "description", report.load.quantized);
    add_file(json, "description_2", report.load_2.quantized);
    for (const QuantizeReport& quantized : report.quantized) {
        if (!quantized.because.empty()) json["because"] = quantized.because;
    }
    json["layers"] = layer_counts(report.quantized);
    return json;
}

std::size_t float_bytes(const GenerateReport& report) {
    if (report.quantized.empty()) return report.results.front().weight_bytes;
    std::size_t bytes = 0;
    for (const QuantizeReport& quantized : report.quantized) bytes += quantized.bytes_before;
    return bytes;
}

Json videos_json(const GenerateReport& report) {
    Json videos = Json::array();
    std::uint64_t seed = report.options.sampling.seed;
    for (const GenerateResult& result : report.results)
        videos.push_back({{"seed", seed++}, {"step_seconds", result.step_seconds}});
    return videos;
}

// Of the first video.
Json cache_json(const GenerateReport& report) {
    const StepCacheConfig& cache = report.options.sampling.cache;
    Json passes = Json::array();
    for (const CachedPass& pass : report.results.front().cached_passes)
        passes.push_back({{"step", pass.step}, {"conditional", pass.conditional}});
    return {{"kind", to_string(cache.kind)}, {"threshold", cache.threshold}, {"cached_passes", passes}};
}

std::string cache_text(const GenerateReport& report) {
    const StepCacheConfig& cache = report.options.sampling.cache;
    std::size_t cached = 0;
    for (const GenerateResult& result : report.results) cached += result.cached_passes.size();
    return fmt::format("\ncache {} {}: passes that left blocks out: {}", to_string(cache.kind),
                       cache.threshold, cached);
}

Json stages_json(const GenerateResult& result) {
    Json stages = Json::array();
    for (const StageSeconds& stage : result.stages)
        stages.push_back({{"stage", stage.stage}, {"seconds", stage.seconds}});
    return stages;
}

}  // namespace

Json to_json(const GenerateReport& report) {
    const GenerateOptions& options = report.options;
    const SamplingOptions& sampling = options.sampling;
    const GenerateResult& result = report.results.front();
    Json json = {
        {"model", report.model},
        {"prompt", options.prompt},
        {"seed", sampling.seed},
        {"steps", *sampling.steps},
        {"guidance", *sampling.guidance},
        {"shift", *sampling.shift},
        {"sampler", to_string(*sampling.sampler)},
        {"image_first", *sampling.image_first},
        {"stagger", *sampling.stagger},
        {"frames", *sampling.frames},
        {"width", *sampling.width},
        {"height", *sampling.height},
        {"device", report.load.device.describe()},
        {"cpu", {{"name", cpu_name()}, {"level", to_string(cpu_level())}, {"threads", num_threads()}}},
        {"float_bytes", float_bytes(report)},
        {"weight_bytes", result.weight_bytes},
        {"peak_memory_bytes", report.peak_memory_bytes},
        {"seconds_per_step", median(result.step_seconds)},
        {"step_seconds", result.step_seconds},
        {"first_frame_seconds", result.first_frame_seconds},
        {"stages", stages_json(result)}};
    if (report.results.size() > 1) json["videos"] = videos_json(report);
    if (sampling.guidance_2) json["guidance_2"] = *sampling.guidance_2;
    if (!options.negative_prompt.empty()) json["negative_prompt"] = options.negative_prompt;
    if (report.text_encoder) json["text_encoder_scheme"] = main_scheme({*report.text_encoder});
    add_file(json, "text_encoder_description", report.load_text.quantized);
    add_files(json, report);
    if (!report.quantized.empty()) json["quantized"] = quantized_json(report);
    if (options.sparse) json["sparse"] = sparse_json(report);
    if (sampling.cache.kind != StepCacheKind::none) json["cache"] = cache_json(report);
    if (report.timings) json["timings"] = to_json(*report.timings);
    json["outputs"] = report.outputs;
    return json;
}

std::string to_text(const GenerateReport& report) {
    double total = 0.0;
    std::vector<double> seconds;
    for (const GenerateResult& result : report.results)
        seconds.insert(seconds.end(), result.step_seconds.begin(), result.step_seconds.end());
    for (const double step : seconds) total += step;
    std::string text =
        fmt::format("{} in {} ({} per step), weights {}, peak memory {}", counted(seconds.size(), "step"),
                    show_seconds(total), show_seconds(median(seconds)),
                    show_bytes(static_cast<double>(report.results.front().weight_bytes)),
                    show_bytes(static_cast<double>(report.peak_memory_bytes)));
    std::string stages;
    for (const StageSeconds& stage : report.results.front().stages) {
        if (stage.stage == "denoise" || stage.seconds < kWorthTelling) continue;
        stages +=
            fmt::format("{}{} {}", stages.empty() ? "\n" : ", ", stage.stage, show_seconds(stage.seconds));
    }
    text += stages;
    if (!report.quantized.empty()) {
        int layers = 0, floats = 0;
        for (const auto& [scheme, count] : layer_counts(report.quantized)) {
            layers += count;
            if (scheme == "FLOAT") floats = count;
        }
        text += fmt::format("\nquantized: {} of {} layers", layers - floats, layers);
    }
    if (report.text_encoder) text += "\ntext encoder: " + main_scheme({*report.text_encoder});
    if (report.options.sparse) {
        const SparseSummary summary = summarize(report.results.front().sparse_calls);
        if (report.results.front().sparse_calls.empty()) text += "\nno step was sparse: see --start-step";
        text += fmt::format("\n{}: density {:.1f} %, prediction {}, attention {}, heads:",
                            report.options.sparse->pattern.type, 100 * summary.density,
                            show_seconds(summary.predict_seconds), show_seconds(summary.attention_seconds));
        for (const auto& [type, count] : summary.head_types) text += fmt::format(" {} {}", count, type);
        for (const auto& [reason, calls] : summary.stayed_dense)
            text += fmt::format("\n{} of {} calls stayed dense: {}", calls,
                                report.results.front().sparse_calls.size(), reason);
    }
    if (report.options.sampling.cache.kind != StepCacheKind::none) text += cache_text(report);
    if (report.timings) text += "\n" + to_text(*report.timings);
    for (const auto& output : report.outputs) text += "\nwrote " + output;
    return text;
}

std::string parameters_text(const GenerateReport& report, int index) {
    const GenerateOptions& options = report.options;
    const SamplingOptions& sampling = options.sampling;
    std::string text = options.prompt;
    if (!options.negative_prompt.empty()) text += "\nNegative prompt: " + options.negative_prompt;
    text += fmt::format("\nSteps: {}, Sampler: {}, CFG scale: {}, Shift: {:.4g}, Seed: {}, Size: {}x{}",
                        *sampling.steps, to_string(*sampling.sampler), *sampling.guidance, *sampling.shift,
                        sampling.seed + static_cast<std::uint64_t>(index), *sampling.width, *sampling.height);
    if (*sampling.frames > 1) text += fmt::format(", Frames: {}", *sampling.frames);
    text += ", Model: " + std::filesystem::path(report.model).filename().string();
    if (!report.quantized.empty()) text += ", Scheme: " + main_scheme(report.quantized);
    const auto add_name = [&](const char* what, const std::filesystem::path& file) {
        if (!file.empty()) text += what + file.filename().string();
    };
    add_name(", Transformer: ", report.load.weights);
    add_name(", Transformer 2: ", report.load_2.weights);
    add_name(", Quantized: ", report.load.quantized);
    add_name(", Quantized 2: ", report.load_2.quantized);
    add_name(", Text encoder quantized: ", report.load_text.quantized);
    for (const LoadOptions* load : {&report.load, &report.load_2})
        for (const LoraFile& lora : load->loras)
            text += fmt::format(", LoRA: {} {}", lora.path.filename().string(), lora.weight);
    if (options.sparse)
        text +=
            fmt::format(", Sparse: {} {}", options.sparse->pattern.type, options.sparse->pattern.sparsity);
    if (sampling.cache.kind != StepCacheKind::none)
        text += fmt::format(", Cache: {} {}", to_string(sampling.cache.kind), sampling.cache.threshold);
    return text;
}

}  // namespace aerogel::cli
