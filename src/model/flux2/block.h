// The blocks of a Flux2 transformer. Text and image lie in one residual stream, [batch, text + image,
// inner_dim], from the beginning: attention is over all of it, and a double block treats its two parts apart.
#pragma once

#include <cstdint>

#include "aerogel/tensor.h"
#include "model/flux2/config.h"
#include "model/flux2/weights.h"
#include "model/rotary.h"

namespace aerogel {

/// Sizes of one pass.
struct Flux2Tokens {
    std::int64_t batch = 1;
    std::int64_t text = 0;
    LatentShape image;

    std::int64_t each() const { return text + image.tokens(); }  ///< of an item of the batch
    std::int64_t rows() const { return batch * each(); }
};

/// What all blocks are modulated with: [batch, n * inner_dim], shift, scale and gate of each sub-layer.
struct Flux2Modulation {
    Tensor image, text;  ///< of double blocks, n = 6
    Tensor single;       ///< n = 3
};

/// Memory of one pass, planned once.
struct Flux2Buffers {
    Tensor hidden;   ///< [rows, inner_dim]: the residual stream
    Tensor wide;     ///< [3, rows, inner_dim]: input of a sub-layer; q, k, v of a single block
    Tensor scratch;  ///< flat: what one sub-layer projects to

    Flux2Buffers(const Flux2Config& config, const Flux2Tokens& tokens, Device device);
};

struct Flux2Pass {
    const Flux2Config& config;
    const TransformerStep& step;
    const Flux2Tokens& tokens;
    const Flux2Modulation& modulation;
    const RotaryTable& rotary;
    Flux2Buffers& buffers;
};

/// Each advances buffers.hidden by one block; `index` counts blocks of both kinds.
void run_double_block(const Flux2DoubleWeights& weights, const Flux2Pass& pass, int index);
void run_single_block(const Flux2SingleWeights& weights, const Flux2Pass& pass, int index);

}  // namespace aerogel
