// The report of `aerogel generate`.
#include "cli/generate_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "aerogel/threads.h"
#include "base/cpu_features.h"
#include "cli/command.h"
#include "core/text.h"

namespace aerogel::cli {
namespace {

using Json = nlohmann::ordered_json;

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

}  // namespace

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
    for (const auto& output : report.outputs) text += "\nwrote " + output;
    return text;
}

}  // namespace aerogel::cli
