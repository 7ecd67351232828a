// How an export exchanges two files, weights and description, for new ones: the new description is complete
// as "<description>.next" before the weights take their name, and takes its own name after them. Whoever
// finds it there and the weights complete ("<weights>.part" gone) reads it instead of the old one, so that at
// every instant a whole pair can be read, the old one or the new one.
#pragma once

#include <filesystem>

#include "aerogel/description.h"

namespace aerogel {

std::filesystem::path next_description_path(const std::filesystem::path& description);
/// True when the weights have been exchanged, but not yet the description.
bool is_half_switched(const std::filesystem::path& description, const std::filesystem::path& weights);
/// The description that belongs to the weights as they are now. Errors as QuantDescription::read.
QuantDescription read_description_in_force(const std::filesystem::path& description);

}  // namespace aerogel
