// aerogel inspect PATH: what is in a model, a quantized pair or any safetensors file, and what is wrong.
#include <fmt/format.h>

#include <memory>

#include "aerogel/error.h"
#include "base/cpu_features.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "core/text.h"
#include "model/inspect.h"
#include "ops/dispatch.h"

namespace aerogel::cli {
namespace {

struct InspectFlags {
    std::string path;
    int rank = -1;
    bool all = false;
    bool kernels = false;
    bool json = false;
};

void print(const InspectFlags& flags, const nlohmann::ordered_json& json, const std::string& text) {
    if (flags.json) {
        print_json(json);
    } else {
        print_text(text);
    }
}

// The reason that most kernels have is told once: a machine without a GPU has it for all of CUDA.
void inspect_kernels(const InspectFlags& flags) {
    nlohmann::ordered_json json = {{"cpu", cpu_name()},
                                   {"detected_level", to_string(detected_cpu_level())},
                                   {"level", to_string(cpu_level())},
                                   {"kernels", all_kernel_names()}};
    std::string text = fmt::format("{}\nlevel {} (this CPU has {})", cpu_name(), to_string(cpu_level()),
                                   to_string(detected_cpu_level()));
    json["not_here"] = nlohmann::ordered_json::object();
    std::string told;
    for (const ListedKernel& kernel : listed_kernels()) {
        text += "\n  " + kernel.name;
        if (kernel.why_not.empty()) continue;
        json["not_here"][kernel.name] = kernel.why_not;
        text += kernel.why_not == told ? " (the same)" : " (" + kernel.why_not + ")";
        told = kernel.why_not;
    }
    print(flags, json, text);
}

void run_inspect(const InspectFlags& flags) {
    if (flags.kernels == !flags.path.empty()) throw InvalidArgument("[inspect] give a PATH or --kernels");
    if (flags.kernels) {
        inspect_kernels(flags);
        return;
    }
    const InspectReport report = inspect(flags.path, {flags.rank, flags.all});
    print(flags, report.json, report.text);
    if (report.problems != 0) {
        throw InvalidArgument(
            fmt::format("[inspect] {} has {}", report.path.string(), counted(report.problems, "problem")));
    }
}

}  // namespace

void add_inspect(CLI::App& app) {
    auto* command = app.add_subcommand(
        "inspect",
        "Show what a model, a quantized pair or any safetensors or GGUF file holds, and its problems");
    auto flags = std::make_shared<InspectFlags>();
    command->add_option(
        "PATH", flags->path,
        "A .safetensors file (or .index.json), a .gguf file, the folder of a model or a pipeline, "
        "quant_model_description_*.json or its folder, or a file of calibration statistics");
    add_rank_flag(*command, flags->rank);
    command->add_flag("--all", flags->all, "List every layer and tensor");
    command->add_flag("--kernels", flags->kernels, "List the kernels of this build instead");
    command->add_flag("--json", flags->json, "Print JSON (always complete)");
    command->footer(
        "The exit code is 1 when a quantized pair has problems.\n"
        "Examples:\n"
        "  aerogel inspect examples/shapes_dit\n"
        "  aerogel inspect quantized --all\n"
        "  aerogel inspect quantized/quant_model_description_w8a8_dynamic.json --json\n"
        "  aerogel inspect --kernels");
    command->callback([flags] { run_inspect(*flags); });
}

}  // namespace aerogel::cli
