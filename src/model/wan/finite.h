// Which layers are behind the parts of a Wan transformer, for values that are not finite.
#pragma once

#include "model/finite.h"
#include "model/wan/embeddings.h"
#include "model/wan/weights.h"

namespace aerogel {

/// InvalidArgument naming the embedding.
void check_finite_conditions(const FiniteChecks& check, const WanConditioning& conditions,
                             const WanWeights& weights);
/// The same for the output of block `index`.
void check_finite_block(const FiniteChecks& check, const Tensor& hidden, const WanBlockWeights& block,
                        int index);

}  // namespace aerogel
