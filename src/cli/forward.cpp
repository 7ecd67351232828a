// aerogel forward MODEL --inputs FILE: the transformer alone on recorded inputs.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <vector>

#include "aerogel/pipeline.h"
#include "aerogel/safetensors.h"
#include "aerogel/threads.h"
#include "base/clock.h"
#include "base/cpu_features.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "cli/quantization_flags.h"
#include "cli/sparse_flags.h"
#include "cli/timings_report.h"
#include "core/text.h"
#include "model/recorded_inputs.h"

namespace aerogel::cli {
namespace {

struct ForwardFlags {
    std::string device = "cpu";
    std::string model;
    std::string inputs;
    std::string output;
    QuantizationFlags quantization;
    SparseFlags sparse;
    bool timings = false;
    bool json = false;
};

/// The velocity of every record, the seconds that each took, and the computed share of each sparse call.
struct Passes {
    Tensor velocity;  // f32 [records, channels, frames, height, width]
    std::vector<double> seconds;
    std::vector<double> densities;
    std::optional<TimingsReport> timings;
};

double sum(const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0);
}

Passes run_records(const Transformer& model, const RecordedInputFile& records, const ForwardFlags& flags) {
    const auto sparse = sparse_config(flags.sparse);
    const auto policy = timestep_policy(model, flags.quantization);
    Passes passes;
    std::optional<Timings> timings;
    if (flags.timings) timings.emplace();
    Progress progress("forward", static_cast<int>(records.count()));
    for (std::int64_t i = 0; i < records.count(); ++i) {
        TransformerStep settings;
        SparsePlans plans;
        settings.context.timestep_index = records.steps()[static_cast<std::size_t>(i)];
        if (policy) settings.timestep_policy = &*policy;
        if (sparse) settings.sparse = &*sparse;
        settings.sparse_plans = &plans;
        std::vector<SparseReport> reports;
        settings.on_sparse = [&](int, const SparseReport& report) { reports.push_back(report); };
        const auto start = Clock::now();
        TransformerInput input = records.input(i);
        for (Tensor* tensor : {&input.hidden_states, &input.timestep, &input.encoder_hidden_states})
            *tensor = tensor->to(model.device());
        const Tensor velocity = model.forward(input, settings).to(Device::cpu);
        passes.seconds.push_back(seconds_since(start));
        for (SparseReport& report : reports) {
            report.read();
            passes.densities.push_back(report.density());
        }
        if (i == 0) {
            Shape shape = velocity.shape();
            shape[0] = records.count();
            passes.velocity = Tensor(DType::f32, shape);
        }
        std::copy_n(velocity.as<float>(), velocity.count(),
                    passes.velocity.mutable_as<float>() + i * velocity.count());
        progress.update(static_cast<int>(i) + 1, show_seconds(passes.seconds.back()) + "/record");
        if (interrupted())
            throw Cancelled(fmt::format("[forward] stopped after record {} of {}", i + 1, records.count()));
    }
    if (timings) passes.timings = {timings->operations(), sum(passes.seconds)};
    return passes;
}

nlohmann::ordered_json to_json(const ForwardFlags& flags, const Transformer& model, const Passes& passes) {
    nlohmann::ordered_json json = {
        {"model", flags.model},
        {"inputs", flags.inputs},
        {"records", passes.velocity.dim(0)},
        {"cpu", {{"name", cpu_name()}, {"level", to_string(cpu_level())}, {"threads", num_threads()}}},
        {"weight_bytes", model.weight_bytes()},
        {"peak_memory_bytes", peak_memory_bytes()},
        {"record_seconds", passes.seconds},
        {"output", flags.output}};
    if (!passes.densities.empty())
        json["density"] = sum(passes.densities) / static_cast<double>(passes.densities.size());
    if (passes.timings) json["timings"] = to_json(*passes.timings);
    return json;
}

void run_forward(const ForwardFlags& flags) {
    std::vector<std::filesystem::path> read = files_of(flags.quantization);
    read.insert(read.end(), {flags.model, flags.inputs, flags.sparse.profile});
    check_output_file("forward", flags.output, read);
    const RecordedInputFile records(flags.inputs, "forward");
    LoadOptions load = load_options(flags.quantization);
    load.device = parse_device("forward", flags.device);
    load.on_quantized = [](const QuantizeReport& report) {
        if (!report.because.empty()) print_error(report.because);
    };
    const auto model = Transformer::load(flags.model, load);
    const Passes passes = run_records(*model, records, flags);
    save_safetensors(flags.output, {{"velocity", passes.velocity}});
    if (flags.json) {
        print_json(to_json(flags, *model, passes));
        return;
    }
    print_text(fmt::format("{} in {}, velocity {} in {}", counted(records.count(), "record"),
                           show_seconds(sum(passes.seconds)), to_string(passes.velocity.shape()),
                           flags.output));
    if (passes.timings) print_text(to_text(*passes.timings));
}

}  // namespace

void add_forward(CLI::App& app) {
    auto* command = app.add_subcommand(
        "forward", "Run the transformer once on each recorded input: float or quantized, dense or sparse");
    auto flags = std::make_shared<ForwardFlags>();
    command->add_option("MODEL", flags->model, "Pipeline folder (transformer/ ...)")->required();
    command
        ->add_option(
            "--inputs", flags->inputs,
            "A .safetensors file with hidden_states [records,channels,frames,height,width], timestep "
            "[records] or\n"
            "[records,tokens], encoder_hidden_states [records,len,dim] and optionally step [records]")
        ->required();
    command
        ->add_option("-o,--output", flags->output,
                     "The .safetensors file to write: velocity [records,channels,frames,height,width]")
        ->required();
    command->add_option("--device", flags->device, "Where to compute: cpu, cuda or cuda:N")
        ->capture_default_str();
    add_quantization_flags(*command, flags->quantization);
    add_sparse_flags(*command, flags->sparse);
    add_timings_flag(*command, flags->timings);
    command->add_flag("--json", flags->json, "Print the report as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel forward examples/shapes_dit --inputs recorded.safetensors -o float.safetensors\n"
        "  aerogel forward examples/shapes_dit --inputs recorded.safetensors -o int8.safetensors --online "
        "W8A8_DYNAMIC\n"
        "  aerogel compare float.safetensors int8.safetensors");
    command->callback([flags] { run_forward(*flags); });
}

}  // namespace aerogel::cli
