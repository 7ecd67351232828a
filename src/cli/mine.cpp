// aerogel mine MODEL -o profile.json: which static mask each attention head of a model wants, found offline.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/mine_report.h"
#include "cli/output.h"
#include "cli/sampling_flags.h"
#include "cli/sparse_flags.h"
#include "core/atomic_file.h"
#include "model/calibrate.h"
#include "model/mine.h"

namespace aerogel::cli {
namespace {

struct MineFlags {
    std::string model;
    std::string output;
    std::string html;
    std::string captions;
    std::vector<std::string> prompts;
    SamplingFlags sampling;
    MineOptions options;
    bool json = false;
};

MineOptions to_options(const MineFlags& flags) {
    MineOptions options = flags.options;
    options.captions = flags.prompts;
    if (!flags.captions.empty()) {
        for (std::string& caption : read_captions(flags.captions))
            options.captions.push_back(std::move(caption));
    }
    if (options.captions.empty()) options.captions = default_captions(flags.model);
    options.sampling = sampling_options("mine", flags.sampling);
    return options;
}

void check_outputs(const MineFlags& flags) {
    check_output_file("mine", flags.output, {flags.model, flags.captions});
    if (flags.html.empty()) return;
    check_output_file("mine", flags.html, {flags.model, flags.captions});
    check_distinct("mine", {flags.output, flags.html});
}

void run_mine(const MineFlags& flags) {
    check_outputs(flags);
    MineOptions options = to_options(flags);
    const Pipeline pipeline = Pipeline::load(flags.model);
    std::optional<Progress> progress;
    options.progress = [&](int done, int total) {
        if (!progress) progress.emplace("mine", total);
        progress->update(done);
        return !interrupted();
    };
    const AttentionMiner miner = mine(pipeline, options);
    progress.reset();
    const SparseProfile profile = miner.profile();
    const MineReport report{flags.model, miner, profile};
    profile.write(flags.output);
    if (!flags.html.empty()) write_file_atomically(flags.html, to_html(report));
    if (flags.json) {
        print_json(to_json(report));
        return;
    }
    print_text(fmt::format("{}\nwrote {}", to_text(report), flags.output));
    if (!flags.html.empty()) print_text("wrote " + flags.html);
}

}  // namespace

void add_mine(CLI::App& app) {
    auto* command = app.add_subcommand(
        "mine", "Find the sparse mask that suits each attention head of a model, and write a profile");
    auto flags = std::make_shared<MineFlags>();
    MiningOptions& mining = flags->options.mining;
    command->add_option("MODEL", flags->model, "Pipeline folder (transformer/, text_encoder/ ...)")
        ->required();
    command->add_option("-o,--output", flags->output, "The profile (JSON), for aerogel generate --profile")
        ->required();
    command->add_option("--html", flags->html,
                        "Also write a page with heat maps, head types and recall curves");
    command->add_option("--captions", flags->captions, "File with one caption per line, to make videos of");
    command->add_option("--prompt", flags->prompts, "A caption; repeatable (default: a few built-in ones)");
    add_pattern_flags(*command, mining.pattern, mining.pattern.type);
    command->add_flag("--by-step", mining.by_step, "Let the type of a head change from step to step");
    add_sampling_flags(*command, flags->sampling);
    command->add_flag("--json", flags->json, "Print the summary as JSON");
    command->footer(
        "Examples:\n"
        "  aerogel mine examples/shapes_dit -o profile.json --html mined.html\n"
        "  aerogel mine examples/shapes_dit -o profile.json --prompt \"blue star turns\" --sparsity 0.9 "
        "--by-step");
    command->callback([flags] { run_mine(*flags); });
}

}  // namespace aerogel::cli
