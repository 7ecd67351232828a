// The flags that say how self-attention is sparse.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "aerogel/sparse_config.h"

namespace aerogel::cli {

/// What the flags were set to.
struct SparseFlags {
    SparseConfig config = {.pattern = {.sparsity = 0.8}};
    std::string precision = "none";
    std::string profile;
    const CLI::App* command = nullptr;  ///< knows which flags were given
};

/// A flag per member of the pattern that `type` looks at; without a type per member that any does, and the
/// help names those types.
void add_pattern_flags(CLI::App& command, SparsePattern& pattern, std::string_view type = {});
void add_sparse_flags(CLI::App& command, SparseFlags& flags);
/// Empty: dense. InvalidArgument for an unknown type and for a profile with another type than rf_v1; reads
/// the profile.
std::optional<SparseConfig> sparse_config(const SparseFlags& flags);

}  // namespace aerogel::cli
