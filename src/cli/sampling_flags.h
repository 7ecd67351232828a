// The flags of commands that make videos: generate, mine, and quantize where it calibrates.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>

#include "aerogel/pipeline.h"

namespace aerogel::cli {

/// What the flags were set to.
struct SamplingFlags {
    SamplingOptions options;  ///< all but size and sampler
    std::string size;
    std::string sampler;
};

/// `group`: the heading in the help, empty for none.
void add_sampling_flags(CLI::App& command, SamplingFlags& flags, const std::string& group = {});
/// InvalidArgument starting with `op` for a size that is not like 64x48 (width x height, as in ffmpeg), and
/// for an unknown sampler.
SamplingOptions sampling_options(std::string_view op, const SamplingFlags& flags);

}  // namespace aerogel::cli
