// What a pipeline folder says about generation: sizes and steps of model_index.json's "generation" entry, the
// sampler and its shift of scheduler/scheduler_config.json.
#pragma once

#include <filesystem>

#include "aerogel/pipeline.h"

namespace aerogel {

/// Unset fields are those the folder says nothing about. InvalidArgument on a wrong value, Unsupported on a
/// scheduler or a setting of it that no sampler here has.
SamplingOptions read_pipeline_defaults(const std::filesystem::path& folder);

}  // namespace aerogel
