// The given first frame of a video on its way through the sampler.
#pragma once

#include "aerogel/wan.h"

namespace aerogel {

/// Keeps the first frame of a sample as it was given, if one was.
class FirstFrame {
  public:
    /// `frame`: undefined, or f32 [channels, frames of one patch, height, width] for a sample of shape
    /// [1, channels, frames, height, width]; InvalidArgument when it does not fit.
    FirstFrame(const WanConfig& config, Tensor frame, const Shape& sample);

    /// Puts the frame into the sample.
    void put(const Tensor& sample) const;
    /// The timesteps of a forward pass at `now`: [1], or with a frame [1, tokens] with 0 for its tokens.
    Tensor timesteps(float now) const;

  private:
    Tensor frame_;
    std::int64_t given_tokens_ = 0, tokens_ = 0;
};

}  // namespace aerogel
