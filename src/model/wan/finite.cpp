// Layers in the order in which they are blamed.
#include "model/wan/finite.h"

#include <fmt/format.h>

#include <array>

namespace aerogel {

void check_finite_conditions(const FiniteChecks& check, const WanConditioning& conditions,
                             const WanWeights& weights) {
    const std::array time = {&weights.time_in, &weights.time_out, &weights.time_proj};
    check("the timestep embedding", conditions.time, time);
    check("the timestep embedding", conditions.modulation, time);
    check("the text embedding", conditions.text, std::array{&weights.text_in, &weights.text_out});
    check("the image embedding", conditions.image, std::array{&weights.image.ff_in, &weights.image.ff_out});
}

void check_finite_block(const FiniteChecks& check, const Tensor& hidden, const WanBlockWeights& block,
                        int index) {
    const WanAttentionWeights &self = block.attn1, &cross = block.attn2;
    check(fmt::format("the output of block {}", index), hidden,
          std::array{&self.to_q, &self.to_k, &self.to_v, &self.to_out, &cross.to_q, &cross.to_k, &cross.to_v,
                     &cross.to_out, &cross.add_k, &cross.add_v, &block.ffn_in, &block.ffn_out});
}

}  // namespace aerogel
