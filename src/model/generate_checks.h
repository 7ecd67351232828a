// What is wrong with a call of Pipeline::generate, told before any of it has run.
#pragma once

#include "aerogel/pipeline.h"
#include "model/pipeline_folder.h"
#include "model/vae/vae.h"

namespace aerogel {

/// What a call is of.
struct CallOf {
    const PipelineFolder& folder;
    const TransformerConfig& config;  ///< of the first expert
    const VaeShape* vae = nullptr;    ///< null: the sample is the video
    Device device;
};

/// Of a call with every default filled in. InvalidArgument, Unsupported.
void check_options(const GenerateOptions& call, const CallOf& of);
/// Sizes, channels, noise levels and the first frame of the same; `picture`: one is given as pixels.
void check_sample(const GenerateOptions& call, const CallOf& of, bool picture);

}  // namespace aerogel
