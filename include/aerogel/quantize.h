// quantize(model, ...): turns a loaded float model's Linears into QuantizedLinears, from files or in memory.
// layer: model
#pragma once

#include <filesystem>

#include "aerogel/layered_model.h"
#include "aerogel/quant_config.h"
#include "aerogel/transformer.h"

namespace aerogel {

struct QuantizeOptions {
    int rank = -1;  ///< -1: taken from the description's file name
};

/// Replaces every Linear that the description quantizes. InvalidArgument when the description names a layer
/// the model lacks or a tensor's shape does not fit (the model is left as it was); Unsupported for a scheme
/// that Aerogel does not have.
QuantizeReport quantize(LayeredModel& model, const std::filesystem::path& description_path,
                        const QuantizeOptions& options = {});

/// The same in memory; layers quantized before stay as they are. InvalidArgument for a pattern that matches
/// no layer, choices that a scheme does not have, schemes that need calibration and when nothing is left to
/// quantize; Unsupported for schemes that Aerogel does not have.
QuantizeReport quantize(LayeredModel& model, const OnlineQuantConfig& config);

/// TimestepPolicyConfig::static_from for a quantized model. InvalidArgument also for a step above those that
/// one of its W8A8_TIMESTEP layers holds scales of.
TimestepPolicyConfig policy_static_from(const LayeredModel& model, int step);

}  // namespace aerogel
