// Sampling of a video whose frames need not all be at the same noise level.
#pragma once

#include <memory>
#include <vector>

#include "aerogel/pipeline.h"

namespace aerogel {

/// Takes a sample from noise to video. A given first frame stays as it is, at noise level 0. With
/// SamplingOptions::stagger each further frame starts some steps after the one before it and then takes as
/// many steps as that one.
class FrameSampler {
  public:
    /// `sample`: f32 [1, channels, frames, height, width], noise; the given first frame is put into it.
    /// `options.sampling`: with every default filled in. InvalidArgument when the first frame or stagger does
    /// not fit, Unsupported when frames differ and the model takes one timestep for all.
    /// `levels`: of a frame that starts with the first step.
    FrameSampler(const TransformerConfig& config, const GenerateOptions& options, const NoiseLevels& levels,
                 Tensor sample);

    /// Timesteps of the forward pass of a step: [1], or [1, tokens] where frames differ.
    Tensor timesteps(int step) const;
    /// Of one frame of the sample.
    double timestep(int step, std::int64_t frame) const;
    /// Advances the sample with the model's velocity of a step.
    void step(int step, const Tensor& velocity);

  private:
    /// Frames that take the same steps.
    struct Group {
        std::int64_t first = 0;
        std::int64_t count = 0;
        int start = 0;                     // step of the video in which it takes its first one
        std::unique_ptr<Sampler> sampler;  // none: it is given
    };

    void give(const Tensor& frame);
    void add_moving_frames(const SamplingOptions& options, const NoiseLevels& levels);
    float timestep(const Group& group, int step) const;

    Tensor sample_;
    std::int64_t patch_frames_;      // frames of one token
    std::int64_t tokens_per_patch_;  // tokens of that many frames
    std::vector<Group> groups_;
};

}  // namespace aerogel
