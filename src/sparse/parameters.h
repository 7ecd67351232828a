// The members of SparsePattern as a table: checks, flags and Python read names, limits and defaults from it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <variant>

#include "aerogel/sparse_attention.h"

namespace aerogel {

struct SparseParameter {
    std::string_view name;  ///< of the member; the keyword in Python; with dashes the flag
    /// A share in [0, 1], a number of tokens, or a switch.
    std::variant<double SparsePattern::*, std::int64_t SparsePattern::*, bool SparsePattern::*> member;
    std::string_view range;  ///< in words
    bool (*fits)(const SparsePattern& pattern);
    std::string_view about;  ///< one line; of a switch that is on: what turning it off does
};

std::span<const SparseParameter> sparse_parameters();

}  // namespace aerogel
