// What the bytes of an export depend on, as one line: two exports with the same key write the same file.
#pragma once

#include <string>

#include "aerogel/safetensors.h"
#include "quant/export.h"

namespace aerogel {

/// Program version, layout, plan, calibration, attention, and the identity of the model: its files' sizes and
/// times of change, its tensors' names and shapes, and a few bytes out of each tensor.
std::string export_key(const SafetensorsFile& model, const LayerPlan& plan, PairLayout layout,
                       const ExportOptions& options);

}  // namespace aerogel
