// The `linear_quant` entries of recipes: which scheme and algorithm their `qconfig` means.
#pragma once

#include "quant/export.h"
#include "quant/recipe_node.h"

namespace aerogel {

/// qconfig {act, weight}. InvalidArgument on unknown keys and values, Unsupported for combinations that are
/// not there.
LayerOptions read_qconfig(const RecipeNode& qconfig);

}  // namespace aerogel
