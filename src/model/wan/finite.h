// A forward pass that gives values that are not finite is an error, which names the first place where they
// arose. Looking at the residual stream once per block costs a fraction of a percent of the block.
#pragma once

#include "model/wan/embeddings.h"
#include "model/wan/weights.h"

namespace aerogel {

/// InvalidArgument naming the input.
void check_finite_input(const TransformerInput& input, const Context& context);
/// InvalidArgument naming the embedding, and the weight to blame where there is one.
void check_finite_conditions(const WanConditioning& conditions, const WanWeights& weights,
                             const TransformerStep& step);
/// The same for the embedded patches, the output of a block and the output of the model.
void check_finite_patches(const Tensor& hidden, const WanWeights& weights, const TransformerStep& step);
void check_finite_block(const Tensor& hidden, const WanBlockWeights& block, int index,
                        const TransformerStep& step);
void check_finite_output(const Tensor& video, const WanWeights& weights, const TransformerStep& step);

}  // namespace aerogel
