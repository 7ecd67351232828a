// What loaders do with the quantization that LoadOptions ask for.
#pragma once

#include "aerogel/layered_model.h"
#include "aerogel/load_options.h"
#include "base/memory.h"

namespace aerogel {

/// Quantizes a model that was just loaded, as `options` say. Errors as quantize(); InvalidArgument where they
/// name both files and a scheme. `memory`: bytes that `automatic` goes by.
void quantize_as_loaded(LayeredModel& model, const LoadOptions& options,
                        double memory = static_cast<double>(usable_memory_bytes()));

}  // namespace aerogel
