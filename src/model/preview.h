// A small picture of latents on their way: a linear map of the channels to colors, fitted to what the VAE
// makes of a few smooth random latents. One number a pixel of the latents; edges and textures are the
// decoder's work.
#pragma once

#include <array>
#include <vector>

#include "model/vae/vae.h"

namespace aerogel {

class LatentPreview {
  public:
    /// Decodes a picture of 24 x 24 latents.
    explicit LatentPreview(const Vae& vae);
    /// The middle frame of latents f32 [1, channels, frames, height, width] on the CPU, a pixel for each
    /// place: f32 [3, 1, height, width] in [-1, 1].
    Tensor picture(const Tensor& latents) const;

  private:
    std::vector<std::array<double, 3>> weights_;  // of each channel, then of 1
};

}  // namespace aerogel
