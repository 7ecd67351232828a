// A video on its way through one half of a VAE.
#pragma once

#include "aerogel/context.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// Takes the frames of one video in order, in parts; holds what causal layers remember of the parts before.
class VaeStream {
  public:
    VaeStream() = default;
    VaeStream(const VaeStream&) = delete;
    VaeStream& operator=(const VaeStream&) = delete;
    virtual ~VaeStream() = default;
    /// f32 [frames, height, width, channels] -> the same, other sizes.
    virtual Tensor next(Tensor x, const Context& context) = 0;
};

}  // namespace aerogel
