// The size of a video that is to be made: checked before any of its memory is taken.
#pragma once

#include <cstdint>
#include <span>

#include "aerogel/pipeline.h"
#include "model/vae/vae.h"

namespace aerogel {

/// Frames, height and width of the sample that becomes a video of the sizes in `options`, where a token has
/// so many frames, rows and columns of it (`patch`); `vae` null: the sample is the video. InvalidArgument
/// when a size is missing or no whole number of tokens.
Shape sample_size(const SamplingOptions& options, const VaeShape* vae, std::span<const std::int64_t> patch);

/// InvalidArgument when the pixels of a video of these sizes, all set, need more memory than this machine
/// has.
void check_pixel_memory(const SamplingOptions& options);

/// InvalidArgument when the model does not work on the latents of `vae` (null: none), with so many channels
/// of a condition `joined` to them.
void check_channels(const TransformerConfig& config, const VaeShape* vae, std::int64_t joined);

/// [1, channels, frames, height, width] of a sample of this size. InvalidArgument when it needs more memory
/// than this machine has.
Shape sample_shape(const Transformer& model, const Shape& size);

}  // namespace aerogel
