// The entries of recipes about attention: `fa3_quant` and `online_quarot`.
#pragma once

#include <string>

#include "quant/recipe_node.h"

namespace aerogel {

/// The type of attention that a fa3_quant entry means: "FP8_DYNAMIC". InvalidArgument on unknown keys,
/// Unsupported for what is not there.
std::string read_fa3_quant(const RecipeNode& entry);

/// Checks an online_quarot entry. Unsupported for blocks of a chosen size.
void check_online_quarot(const RecipeNode& entry);

}  // namespace aerogel
