// One sampling run: noise becomes the latents (or pixels) of a video, step by step.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "aerogel/pipeline.h"
#include "model/frame_sampler.h"
#include "model/pipeline_folder.h"
#include "model/preview.h"

namespace aerogel {

/// What a run is given.
struct RunInputs {
    const PipelineFolder& folder;
    GenerateOptions options;  ///< with every default filled in
    Shape size;               ///< frames, height and width of the sample
    Tensor prompt_embeds;
    Tensor negative_prompt_embeds;           ///< undefined: no guidance
    Tensor condition;                        ///< TransformerInput::condition, or undefined
    Tensor image_embeds;                     ///< TransformerInput::encoder_hidden_states_image, or undefined
    const LatentPreview* preview = nullptr;  ///< for GenerateOptions::on_preview
    /// Loads the expert when it was not yet.
    std::function<std::shared_ptr<Transformer>(int expert)> transformer;
};

/// A batch of one, without its first axis.
Tensor only_item(const Tensor& batch);

/// Of a run with these options, all set.
NoiseLevels run_levels(const PipelineFolder& folder, const SamplingOptions& sampling);

/// `video` is the sample, f32 [channels, frames, height, width] on the CPU, with the reports of the steps.
/// InvalidArgument, Unsupported, Cancelled.
GenerateResult run_sampling(const RunInputs& inputs);
/// Several runs of one folder: all take the steps of the first expert, then all those of the second, so that
/// each expert is loaded once.
std::vector<GenerateResult> run_sampling(std::span<const RunInputs> inputs);

}  // namespace aerogel
