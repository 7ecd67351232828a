// Registration of the flags, and the settings they make together with a profile.
#include "cli/sparse_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "cli/arguments.h"
#include "sparse/parameters.h"
#include "sparse/patterns/pattern.h"

namespace aerogel::cli {
namespace {

// "--block-size" or, of a switch that is on unless it is given, "--no-keep-sink".
std::string flag_of(const SparseParameter& parameter) {
    std::string flag(parameter.name);
    std::replace(flag.begin(), flag.end(), '_', '-');
    const auto* member = std::get_if<bool SparsePattern::*>(&parameter.member);
    return (member != nullptr && SparsePattern().**member ? "--no-" : "--") + flag;
}

// "rf_v1: heads ..."; a capital letter where every type that makes masks looks at the parameter.
std::string help_of(const SparseParameter& parameter, bool names_types) {
    std::string text(parameter.about);
    std::vector<std::string_view> types;
    bool all = true;
    for (const SparseTypeRow& row : sparse_type_rows()) {
        if (!row.predicts()) continue;
        if (row.looks_at(parameter.name)) {
            types.push_back(row.name);
        } else {
            all = false;
        }
    }
    if (names_types && !all) return fmt::format("{}: {}", fmt::join(types, ", "), text);
    text[0] = static_cast<char>(std::toupper(text[0]));
    return text;
}

void add_flag(CLI::App& command, SparsePattern& pattern, const SparseParameter& parameter,
              const std::string& help) {
    const std::string flag = flag_of(parameter);
    if (const auto* share = std::get_if<double SparsePattern::*>(&parameter.member)) {
        command.add_option(flag, pattern.**share, help)->capture_default_str()->check(real_number(0.0, 1.0));
    } else if (const auto* tokens = std::get_if<std::int64_t SparsePattern::*>(&parameter.member)) {
        command.add_option(flag, pattern.**tokens, help)->capture_default_str();
    } else {
        bool& on = pattern.*std::get<bool SparsePattern::*>(parameter.member);
        command
            .add_flag_function(
                flag, [&on, to = !on](std::int64_t) { on = to; }, help)
            ->disable_flag_override();
    }
}

// Settings of masks that nobody makes are a mistake, unless --sparse none says so.
void check_needless(const CLI::App& command) {
    if (command.count("--sparse") > 0 || command.count("--profile") > 0) return;
    std::vector<std::string> flags = {"--start-step", "--end-step", "--skip-layers", "--mask-refresh-steps",
                                      "--sparse-precision"};
    for (const SparseParameter& parameter : sparse_parameters()) flags.push_back(flag_of(parameter));
    for (const std::string& flag : flags) {
        if (command.count(flag) == 0) continue;
        throw InvalidArgument(fmt::format("[{}] {} says nothing without --sparse", command.get_name(), flag));
    }
}

// The profile's settings, except those that were given as flags.
void apply_profile(const SparseFlags& flags, SparseConfig& config) {
    const auto given = [&](const char* flag) { return flags.command->count(flag) > 0; };
    if (given("--sparse") && config.pattern.type != "rf_v1") {
        throw InvalidArgument(fmt::format("[{}] --profile pins the head types of rf_v1, got --sparse {}",
                                          flags.command->get_name(), config.pattern.type));
    }
    const auto profile = std::make_shared<const SparseProfile>(SparseProfile::read(flags.profile));
    config.pattern.type = profile->pattern.type;
    if (!given("--sparsity")) config.pattern.sparsity = profile->pattern.sparsity;
    if (!given("--block-size")) config.pattern.block_size = profile->pattern.block_size;
    if (!profile->pattern.protect_first_frame) config.pattern.protect_first_frame = false;
    config.profile = profile;
}

}  // namespace

void add_pattern_flags(CLI::App& command, SparsePattern& pattern, std::string_view type) {
    for (const SparseParameter& parameter : sparse_parameters()) {
        // A command for one type looks at q and k only, and computes nothing with the blocks.
        const bool chooses = parameter.name != "by_error" && parameter.name != "centroids";
        if (type.empty() || (sparse_type_row(type).looks_at(parameter.name) && chooses))
            add_flag(command, pattern, parameter, help_of(parameter, type.empty()));
    }
}

void add_sparse_flags(CLI::App& command, SparseFlags& flags) {
    SparseConfig& sparse = flags.config;
    flags.command = &command;
    command
        .add_option("--sparse", sparse.pattern.type,
                    "Sparse self-attention: " + types_that([](const SparseTypeRow&) { return true; }, "or"))
        ->capture_default_str();
    add_pattern_flags(command, sparse.pattern);
    command.add_option(
        "--profile", flags.profile,
        "rf_v1 with the head types of this profile (see aerogel mine) instead of recognising them");
    command.add_option("--start-step", sparse.start_step, "Attention is dense before this step")
        ->capture_default_str();
    command.add_option("--end-step", sparse.end_step, "Attention is dense from this step on (-1: never)")
        ->capture_default_str();
    command.add_option("--skip-layers", sparse.skip_layers, "Blocks that stay dense, for example 0,3")
        ->delimiter(',');
    command
        .add_option("--mask-refresh-steps", sparse.mask_refresh_steps,
                    "Predict masks every N steps and reuse them in between")
        ->capture_default_str()
        ->check(whole_number(1, kMostSteps));
    command
        .add_option("--sparse-precision", flags.precision,
                    "Format of the kept blocks: none (float), int8 or int8_qk; rf_v3 also fp8, mix or mxfp4")
        ->capture_default_str();
}

std::optional<SparseConfig> sparse_config(const SparseFlags& flags) {
    check_needless(*flags.command);
    SparseConfig config = flags.config;
    sparse_type_row(config.pattern.type);
    config.format = sparse_format_from(flags.precision);
    if (!flags.profile.empty()) apply_profile(flags, config);
    if (config.pattern.type == "none") return std::nullopt;
    return config;
}

}  // namespace aerogel::cli
