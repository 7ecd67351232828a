// From flags to quantize(): files, or a scheme in memory.
#include "cli/quantization_flags.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

#include "aerogel/error.h"
#include "cli/arguments.h"
#include "core/paths.h"
#include "quant/algorithms/hadamard.h"
#include "quant/attention.h"
#include "quant/float_layer.h"
#include "quant/layer_patterns.h"

namespace aerogel::cli {
namespace {

constexpr std::int64_t kMostColumns = 1 << 20;               // that a layer's weight plausibly has
constexpr const char* kInMemory = "Quantization in memory";  // the group of --online and what needs it

OnlineQuantConfig online_config(const QuantizationFlags& flags) {
    OnlineQuantConfig config = flags.online;
    config.symmetric = !flags.asymmetric;
    const RotationShape rotation = parse_rotation(flags.rotation);
    config.rotation_block = rotation.block;
    config.rotation_kind = rotation.kind;
    for (const std::string& fallback : flags.fallbacks) {
        const std::size_t equals = fallback.rfind('=');
        if (equals == std::string::npos || equals == 0 || equals + 1 == fallback.size()) {
            throw InvalidArgument(fmt::format("[{}] --fallback must be PATTERN=SCHEME, got '{}'",
                                              flags.command->get_name(), fallback));
        }
        config.fallback_layers.emplace_back(fallback.substr(0, equals), fallback.substr(equals + 1));
    }
    return config;
}

// A file whose name has a "=" in it is one without a weight.
std::vector<LoraFile> lora_files(const QuantizationFlags& flags) {
    std::vector<LoraFile> files;
    for (const std::string& lora : flags.loras) {
        const std::size_t equals = lora.rfind('=');
        if (equals == std::string::npos || path_exists(lora)) {
            files.push_back({lora});
            continue;
        }
        const char* end = lora.data() + lora.size();
        double weight = 0.0;
        const auto [stop, error] = std::from_chars(lora.data() + equals + 1, end, weight);
        if (error != std::errc() || stop != end || equals == 0)
            throw InvalidArgument(
                fmt::format("[{}] --lora must be FILE[=WEIGHT], got '{}'", flags.command->get_name(), lora));
        files.push_back({lora.substr(0, equals), weight});
    }
    return files;
}

}  // namespace

CLI::Option* add_rotation_flag(CLI::App& command, std::string& rotation) {
    return command.add_option(
        "--rotate", rotation,
        "Rotate weights and inputs: columns per Hadamard transform (a power of two; -1: the largest that "
        "divides the columns), or convrot[:COLUMNS], ComfyUI's rotation (a power of four, 256 where it "
        "divides the columns)");
}

CLI::Option* add_group_size_flag(CLI::App& command, std::int64_t& group_size) {
    return command
        .add_option("--group-size", group_size,
                    "Columns that share a scale (int8, int4 and fp8 weights); 0: the whole row. Default: 64 "
                    "(or 32) for int4 weights where they divide the columns, else the whole row")
        ->check(whole_number(0, kMostColumns));
}

CLI::Option* add_low_rank_flag(CLI::App& command, std::int64_t& rank) {
    return command
        .add_option("--low-rank", rank,
                    "Rank of a float branch beside the quantized residual (W4A4_MXFP4_SVD: 32)")
        ->check(whole_number(0, kMostColumns));
}

void add_quantization_flags(CLI::App& command, QuantizationFlags& flags) {
    command.add_option("--transformer", flags.weights,
                       "Weights of transformer/ in place of the folder's: a .gguf or .safetensors file");
    command.add_option("--quantized", flags.files, "A quantized pair: its description or its folder");
    add_rank_flag(command, flags.rank);
    command.add_option("--first-static-step", flags.first_static_step,
                       "W8A8_TIMESTEP: dynamic before this step, static from this step on (default: 0)");
    command.add_option("--timestep-policy", flags.timestep_policy,
                       "JSON file that says what timestep-aware layers do in which step");
    command.add_option("--lora", flags.loras,
                       "FILE[=WEIGHT]: a LoRA (names of diffusers or kohya) that is merged into the "
                       "transformer before it is quantized; repeatable");
    flags.online.quant_type.clear();
    const std::string group = kInMemory;
    flags.command = &command;
    command
        .add_option("--online", flags.online.quant_type,
                    "Quantize the float model in memory to this scheme, which must not need calibration")
        ->group(group);
    command
        .add_option("--fallback", flags.fallbacks,
                    "PATTERN=SCHEME: another scheme for these layers (W16A16 leaves them float); repeatable")
        ->group(group);
    command.add_option("--include", flags.online.include, "Layers to quantize, by pattern")->group(group);
    command.add_option("--exclude", flags.online.exclude, "Layers to leave float")->group(group);
    command.add_option("--algorithm", flags.online.algorithm, "How stored values are chosen")
        ->capture_default_str()
        ->group(group);
    add_group_size_flag(command, flags.online.group_size)->group(group);
    add_rotation_flag(command, flags.rotation)->group(group);
    add_low_rank_flag(command, flags.online.low_rank)->group(group);
    command
        .add_option("--fa", flags.online.fa_quant_type,
                    fmt::format("Quantize attention too: one of {}", dynamic_attention_types()))
        ->group(group);
    command
        .add_option("--fa-layers", flags.online.fa_layers,
                    fmt::format("Attention modules, by pattern; default {}", kDefaultAttentions))
        ->group(group);
    command.add_flag("--asymmetric", flags.asymmetric, "Weight scales with offsets (W8A16 and W4A16)")
        ->group(group);
}

std::vector<std::filesystem::path> files_of(const QuantizationFlags& flags) {
    std::vector<std::filesystem::path> files = {flags.weights, flags.files, flags.timestep_policy};
    for (LoraFile& lora : lora_files(flags)) files.push_back(std::move(lora.path));
    return files;
}

LoadOptions load_options(const QuantizationFlags& flags) {
    const bool online = !flags.online.quant_type.empty();
    const std::string command = flags.command->get_name();
    if (online && !flags.files.empty()) {
        throw InvalidArgument(fmt::format(
            "[{}] --quantized reads files and --online needs none: give only one of them", command));
    }
    const bool first_static = flags.first_static_step && flags.timestep_policy.empty();
    if (flags.files.empty() && (flags.rank >= 0 || first_static)) {
        throw InvalidArgument(fmt::format("[{}] {} says nothing without --quantized", command,
                                          flags.rank >= 0 ? "--rank" : "--first-static-step"));
    }
    if (online) return {.weights = flags.weights, .online = online_config(flags), .loras = lora_files(flags)};
    refuse_group(*flags.command, kInMemory, "without --online");
    return {.weights = flags.weights,
            .quantized = flags.files,
            .loras = lora_files(flags),
            .rank = flags.rank,
            .automatic = true};
}

std::optional<TimestepPolicyConfig> policy_file(const QuantizationFlags& flags) {
    if (!flags.timestep_policy.empty() && flags.first_static_step) {
        throw InvalidArgument(fmt::format(
            "[{}] --first-static-step makes a policy and --timestep-policy reads one: give only one of them",
            flags.command->get_name()));
    }
    if (flags.timestep_policy.empty()) return std::nullopt;
    return TimestepPolicyConfig::read(flags.timestep_policy);
}

std::optional<TimestepPolicyConfig> timestep_policy(const Transformer& model,
                                                    const QuantizationFlags& flags) {
    const auto policy = policy_file(flags);
    return flags.first_static_step ? policy_static_from(model, *flags.first_static_step) : policy;
}

}  // namespace aerogel::cli
