// What an image-to-video model is told of frames that are given: channels beside those of the noise, as
// WanImageToVideoPipeline of diffusers makes them.
#pragma once

#include <cstdint>

#include "aerogel/tensor.h"
#include "model/vae/vae.h"

namespace aerogel {

/// Pixels f32 [1, 3, 1, height, width] in [-1, 1] (pixels_of), of the size of the video.
struct GivenFrames {
    TensorView first;
    TensorView last = {};  ///< no data: not given
};

/// Of frame_condition().
inline std::int64_t condition_channels(const VaeShape& vae) {
    return vae.temporal_factor + vae.channels;
}

/// TransformerInput::condition for a video of so many frames of pixels: f32 [1, temporal_factor +
/// latent channels, frames of latents, ...], on the device of the VAE. First a mask (1: this frame of pixels
/// is given), then the latents of the given frames with grey ones in between. InvalidArgument for other
/// shapes and for numbers of frames that the VAE has no latents for.
Tensor frame_condition(const Vae& vae, const GivenFrames& given, std::int64_t frames,
                       const VaeOptions& options = {});

}  // namespace aerogel
