// Registration of the flags, and the settings they make together with a profile.
#include "cli/sparse_flags.h"

#include <fmt/format.h>

#include <memory>

#include "aerogel/error.h"
#include "cli/arguments.h"

namespace aerogel::cli {
namespace {

// The profile's settings, but for those that were given as flags.
void apply_profile(const SparseFlags& flags, SparseConfig& config) {
    if (flags.type_flag->count() > 0 && config.options.type != SparseType::rf_v1) {
        throw InvalidArgument(
            fmt::format("[generate] --profile pins the head types of rf_v1, got --sparse {}", flags.type));
    }
    const auto profile = std::make_shared<const SparseProfile>(SparseProfile::read(flags.profile));
    config.options.type = SparseType::rf_v1;
    if (flags.sparsity_flag->count() == 0) config.options.sparsity = profile->sparsity;
    if (flags.block_size_flag->count() == 0) config.options.block_size = profile->block_size;
    if (!profile->protect_first_frame) config.options.protect_first_frame = false;
    config.profile = profile;
}

}  // namespace

void add_sparse_flags(CLI::App& command, SparseFlags& flags) {
    SparseConfig& sparse = flags.config;
    flags.type_flag =
        command
            .add_option("--sparse", flags.type, "Sparse self-attention: none, rf_v1, rf_v2, rf_v3 or ada_bsa")
            ->capture_default_str();
    sparse.options.sparsity = 0.8;
    flags.sparsity_flag =
        command
            .add_option("--sparsity", sparse.options.sparsity, "Wanted share of skipped blocks, 0 to below 1")
            ->capture_default_str()
            ->check(real_number(0.0, 1.0));
    flags.block_size_flag =
        command.add_option("--block-size", sparse.options.block_size, "Tokens per block, 16 to 128")
            ->capture_default_str();
    command.add_option("--profile", flags.profile,
                       "rf_v1 with the head types of this profile (aerogel mine) instead of recognition");
    command.add_option("--start-step", sparse.start_step, "Dense before this step")->capture_default_str();
    command.add_option("--end-step", sparse.end_step, "Dense from this step on (-1: never)")
        ->capture_default_str();
    command.add_option("--skip-layers", sparse.skip_layers, "Blocks that stay dense, e.g. 0,3")
        ->delimiter(',');
    command
        .add_option("--mask-refresh-steps", sparse.mask_refresh_steps,
                    "Choose masks anew every so many steps and keep them in between")
        ->capture_default_str()
        ->check(CLI::PositiveNumber);
    command
        .add_option("--min-recall", sparse.options.min_recall,
                    "rf_v1: heads recognised worse than this stay dense")
        ->capture_default_str()
        ->check(real_number(0.0, 1.0));
    command.add_option("--block-size-kv", sparse.options.block_size_k,
                       "rf_v3: tokens per key block, 16 to 256 (0: as --block-size)");
    command.add_option("--sparse-precision", flags.precision, "bf16 or int8; rf_v3 also fp8 or mix")
        ->capture_default_str();
    command
        .add_option("--cdf-threshold", sparse.options.cdf_threshold,
                    "ada_bsa: share of each row's attention to reach, above 0 to 1")
        ->capture_default_str()
        ->check(real_number(0.0, 1.0));
    command.add_flag("--no-protect-first-frame", flags.no_protect_first_frame,
                     "Let the first frame be sparse too");
    command.add_flag("--no-keep-sink", flags.no_keep_sink, "ada_bsa: the first key block may be skipped");
    command.add_flag("--no-keep-recent", flags.no_keep_recent, "ada_bsa: the last key block may be skipped");
}

std::optional<SparseConfig> sparse_config(const SparseFlags& flags) {
    SparseConfig config = flags.config;
    config.options.type = sparse_type_from(flags.type);
    config.options.precision = sparse_precision_from(flags.precision);
    config.options.protect_first_frame = !flags.no_protect_first_frame;
    config.options.keep_sink = !flags.no_keep_sink;
    config.options.keep_recent = !flags.no_keep_recent;
    if (!flags.profile.empty()) apply_profile(flags, config);
    if (config.options.type == SparseType::none) return std::nullopt;
    return config;
}

}  // namespace aerogel::cli
