// The Linears of a model by the names that files of other programs have for them.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/layered_model.h"
#include "quant/original_names.h"

namespace aerogel {

/// A Linear of the model, as a part of the layer that a file names: the rows of all parts lie there one after
/// the other, as many each.
struct NamedPart {
    std::string linear;
    std::size_t part = 0, parts = 1;
    bool swap_halves = false;
};

/// By all names they have: their own and the original ones, with "." written as "_", so that kohya's names
/// are found too.
std::map<std::string, std::vector<NamedPart>> linears_by_name(const LayeredModel& model);

/// `name` as it is looked up there.
std::string lookup_name(std::string_view name);

}  // namespace aerogel
