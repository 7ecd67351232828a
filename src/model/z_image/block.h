// The blocks of a Z-Image transformer. Image and text lie in one residual stream, [batch, image + text, dim],
// both padded to multiples of 32 tokens. The refiners work on either part of it, the layers on all of it.
#pragma once

#include <cstdint>

#include "aerogel/tensor.h"
#include "model/rotary.h"
#include "model/z_image/config.h"
#include "model/z_image/weights.h"

namespace aerogel {

/// Sizes of one pass.
struct ZImageTokens {
    static constexpr std::int64_t kMultiple = 32;

    std::int64_t batch = 1;
    LatentShape image;
    std::int64_t text = 0;

    static std::int64_t padded(std::int64_t tokens) {
        return (tokens + kMultiple - 1) / kMultiple * kMultiple;
    }
    std::int64_t image_rows() const { return padded(image.tokens()); }  ///< of an item of the batch
    std::int64_t text_rows() const { return padded(text); }
    std::int64_t each() const { return image_rows() + text_rows(); }
    std::int64_t rows() const { return batch * each(); }
};

/// Memory of one pass, planned once.
struct ZImageBuffers {
    Tensor hidden;      ///< [rows, dim]: the residual stream
    Tensor normed;      ///< [rows, dim]: input of each sub-layer, then the attention's output
    Tensor modulation;  ///< [batch, 4 * dim] of the current block
    Tensor scratch;     ///< flat: q, k and v, then the feed-forward's inner activations

    ZImageBuffers(const ZImageConfig& config, const ZImageTokens& tokens, Device device);
};

struct ZImagePass {
    const ZImageConfig& config;
    const TransformerStep& step;
    const ZImageTokens& tokens;
    const Tensor& time;         ///< [batch, modulation_dim]
    const RotaryTable& rotary;  ///< of the tokens of an item
    ZImageBuffers& buffers;
};

/// What a block works on: `each` tokens of `items` items of the batch, from row `first` of the stream on.
struct ZImageSpan {
    int block = 0;  ///< its index in hooks and sparse settings
    std::int64_t item = 0, items = 1;
    std::int64_t first = 0, each = 0;
    std::int64_t first_token = 0;  ///< of the rotary table
    bool has_image = true;         ///< its first tokens are the image

    std::int64_t rows() const { return items * each; }
};

/// Advances a part of buffers.hidden by a block.
void run_block(const ZImageBlockWeights& weights, const ZImagePass& pass, const ZImageSpan& span);

}  // namespace aerogel
