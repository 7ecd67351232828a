// The options of `aerogel generate` about quantized models: files or in memory, and what happens in which
// step.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"

namespace aerogel::cli {

struct QuantizationFlags {
    const CLI::App* command = nullptr;
    std::string files;    ///< a description
    std::string weights;  ///< of the transformer, in place of the folder's
    int rank = -1;
    std::optional<int> first_static_step;
    OnlineQuantConfig online;            ///< quant_type empty: none
    std::vector<std::string> fallbacks;  ///< PATTERN=SCHEME
    std::string rotation = "0";
    bool asymmetric = false;
    std::vector<std::string> loras;  ///< FILE[=WEIGHT]
    std::string timestep_policy;
};

/// --rotate, as parse_rotation() reads it.
CLI::Option* add_rotation_flag(CLI::App& command, std::string& rotation);
/// --group-size and --low-rank of the commands that quantize.
CLI::Option* add_group_size_flag(CLI::App& command, std::int64_t& group_size);
CLI::Option* add_low_rank_flag(CLI::App& command, std::int64_t& rank);
void add_quantization_flags(CLI::App& command, QuantizationFlags& flags);
/// What the flags say about loading. InvalidArgument where they contradict each other.
LoadOptions load_options(const QuantizationFlags& flags);
/// What they name, for check_output_file(); empty paths among them.
std::vector<std::filesystem::path> files_of(const QuantizationFlags& flags);
/// The policy of --timestep-policy, if given. InvalidArgument where --first-static-step is given too.
std::optional<TimestepPolicyConfig> policy_file(const QuantizationFlags& flags);
/// The policy of --timestep-policy or --first-static-step, if given, for the quantized model.
std::optional<TimestepPolicyConfig> timestep_policy(const Transformer& model, const QuantizationFlags& flags);

}  // namespace aerogel::cli
