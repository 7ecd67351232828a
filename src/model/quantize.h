// What loaders do with the quantization that LoadOptions ask for.
#pragma once

#include "aerogel/load_options.h"
#include "aerogel/transformer.h"

namespace aerogel {

/// Quantizes a model that was just loaded, as `options` say. Errors as quantize(); InvalidArgument where they
/// name both files and a scheme.
void quantize_as_loaded(Transformer& model, const LoadOptions& options);

}  // namespace aerogel
