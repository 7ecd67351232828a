// Names that models have in the code they were published with, as LoRA files and the files of ComfyUI and
// stable-diffusion.cpp have them: one table per family, read in both directions.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace aerogel {

/// A module, or a tensor that is in none. * stands for the number of a block, in all names the same. What is
/// fused there is several modules here: their rows lie one after the other along its first axis.
struct OriginalName {
    std::string_view original;                 ///< "blocks.*.self_attn.q"
    std::array<std::string_view, 4> names;     ///< "blocks.*.attn1.to_q"; those behind the first may be empty
    bool swap_halves = false;                  ///< the halves along the first axis change places
    std::array<int, 4> shares = {1, 1, 1, 1};  ///< how the first axis is divided among several

    std::size_t parts() const;
};

/// The names of a family's own code. A file has them if a name in it contains `marker`; then the first row
/// that fits a name counts, and names without a row are those of diffusers.
struct OriginalNames {
    std::string_view marker;  ///< empty: all names are those of diffusers
    std::span<const OriginalName> rows = {};
    std::span<const std::string_view> unused = {};  ///< tensors that diffusers has no use for
};

/// What a pattern leaves open in the name of a module, or of what is in it.
struct NameMatch {
    std::string number;  ///< in place of *
    std::string rest;    ///< behind it, from a dot on: ".weight"
};
std::optional<NameMatch> match_name(std::string_view pattern, std::string_view name);

/// The name that another pattern of the same row has for it.
std::string name_of(std::string_view pattern, const NameMatch& match);

}  // namespace aerogel
