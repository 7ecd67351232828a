// The size of a video that is to be made: checked before any of its memory is taken.
#pragma once

#include "aerogel/pipeline.h"

namespace aerogel {

/// [1, channels, frames, height, width]. InvalidArgument when a size is missing, is no multiple of the patch,
/// or needs more memory than this machine has; Unsupported for image conditioning.
Shape video_shape(const Transformer& model, const SamplingOptions& options);

}  // namespace aerogel
