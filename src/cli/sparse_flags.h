// The flags of `aerogel generate` that say how self-attention is sparse.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "aerogel/transformer.h"

namespace aerogel::cli {

/// What the flags were set to.
struct SparseFlags {
    std::string type = "none";
    std::string precision = "bf16";
    std::string profile;
    SparseConfig config;
    bool no_protect_first_frame = false;
    bool no_keep_sink = false;
    bool no_keep_recent = false;
    /// Flags that a profile stands in for where they are not given.
    const CLI::Option* type_flag = nullptr;
    const CLI::Option* sparsity_flag = nullptr;
    const CLI::Option* block_size_flag = nullptr;
};

void add_sparse_flags(CLI::App& command, SparseFlags& flags);
/// Empty: dense. InvalidArgument for an unknown type and for a profile with another type than rf_v1; reads
/// the profile.
std::optional<SparseConfig> sparse_config(const SparseFlags& flags);

}  // namespace aerogel::cli
