// The blocks of a Qwen-Image transformer, a double-stream MMDiT (Stable Diffusion 3, arXiv 2403.03206). Text
// and image lie in one residual stream, [batch, text + image, inner_dim]: attention is over all of it, and
// everything else treats its two parts apart.
#pragma once

#include <cstdint>

#include "aerogel/tensor.h"
#include "model/qwen_image/config.h"
#include "model/qwen_image/weights.h"
#include "model/rotary.h"

namespace aerogel {

/// Sizes of one pass.
struct QwenImageTokens {
    std::int64_t batch = 1;
    std::int64_t text = 0;
    LatentShape image;

    std::int64_t each() const { return text + image.tokens(); }  ///< of an item of the batch
    std::int64_t rows() const { return batch * each(); }
};

/// Memory of one pass, planned once.
struct QwenImageBuffers {
    Tensor hidden;      ///< [rows, inner_dim]: the residual stream
    Tensor normed;      ///< [rows, inner_dim]: input of each sub-layer, then the attention's output
    Tensor modulation;  ///< [2, batch, 6 * inner_dim] of the current block: text, image
    Tensor scratch;     ///< flat: q, k and v, then the mlp's inner activations

    QwenImageBuffers(const QwenImageConfig& config, const QwenImageTokens& tokens, Device device);
};

struct QwenImagePass {
    const QwenImageConfig& config;
    const TransformerStep& step;
    const QwenImageTokens& tokens;
    const Tensor& time;  ///< [batch, inner_dim], through the silu that all that use it begin with
    const RotaryTable& rotary;
    QwenImageBuffers& buffers;
};

inline constexpr float kQwenImageEps = 1e-6F;  ///< of all its norms

/// Advances buffers.hidden by block `index`.
void run_block(const QwenImageBlockWeights& weights, const QwenImagePass& pass, int index);

}  // namespace aerogel
