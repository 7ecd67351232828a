// Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) as the pipelines of diffusers compute it.
#pragma once

#include <cstdint>

#include "aerogel/tensor.h"
#include "model/pipelines.h"

namespace aerogel {

/// The scale with which guidance does nothing.
double no_guidance(GuidanceRule rule);

/// Velocities of the passes with and without the caption, f32 [1, channels, frames, height, width]; the first
/// becomes the guided one. A token has `token_side` rows and columns of one frame.
struct GuidedVelocity {
    MutableView conditional;
    TensorView negative;
    int token_side = 1;
};
void guide(GuidanceRule rule, double scale, const GuidedVelocity& velocity);

}  // namespace aerogel
