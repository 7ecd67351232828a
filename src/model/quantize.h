// What loaders do with the quantization that LoadOptions ask for.
#pragma once

#include "aerogel/layered_model.h"
#include "aerogel/load_options.h"
#include "base/memory.h"

namespace aerogel {

/// InvalidArgument where `options` ask for what does not go together: files and a scheme, files and LoRA.
void check_load_options(const LoadOptions& options);

/// The errors that quantize_as_loaded() would have by names and shapes alone: before weights are read.
void check_quantization(const LayeredModel& model, const LoadOptions& options);

/// Quantizes a model that was just loaded, as `options` say. Errors as quantize() and
/// check_load_options(). `memory`: bytes that `automatic` goes by.
void quantize_as_loaded(LayeredModel& model, const LoadOptions& options,
                        double memory = static_cast<double>(usable_memory_bytes()));

}  // namespace aerogel
