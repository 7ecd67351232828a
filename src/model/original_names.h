// Names that the Linears of a model have in the code it was published with, where files of other programs use
// them.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/layered_model.h"

namespace aerogel {

/// * stands for the number of a block, in all names the same. A layer that is fused there is several here:
/// its rows are theirs, one after the other, as many each.
struct OriginalName {
    std::string_view original;              ///< "blocks.*.self_attn.q"
    std::array<std::string_view, 3> names;  ///< "blocks.*.attn1.to_q"; those behind the first may be empty
    bool swap_halves = false;               ///< the halves of its rows change places
};

/// A Linear of the model, as a part of the layer that a file names.
struct NamedPart {
    std::string linear;
    std::size_t part = 0, parts = 1;
    bool swap_halves = false;
};

/// The Linears of a model by all names they have: its own and the original ones, with "." written as "_", so
/// that kohya's names are found too.
std::map<std::string, std::vector<NamedPart>> linears_by_name(const LayeredModel& model);

/// `name` as it is looked up there.
std::string lookup_name(std::string_view name);

}  // namespace aerogel
