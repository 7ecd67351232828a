// The weights of a Flux2 transformer: Linear layers in named slots, norms as float32 tensors.
#pragma once

#include <cstddef>
#include <vector>

#include "model/checkpoint.h"
#include "model/flux2/config.h"

namespace aerogel {

/// One stream, image or text, of a block with two.
struct Flux2StreamWeights {
    LinearSlot to_q, to_k, to_v, to_out, ff_in, ff_out;
    Tensor norm_q, norm_k;  ///< [head_dim]
};

/// The streams meet in one attention.
struct Flux2DoubleWeights {
    AttentionSlot attention;
    Flux2StreamWeights image, text;
};

/// Attention and feed-forward side by side, of text and image in one stream.
struct Flux2SingleWeights {
    AttentionSlot attention;
    LinearSlot to_qkv_mlp;  ///< -> q, k, v, then gate and values of the feed-forward
    LinearSlot to_out;      ///< of [attention | feed-forward]
    Tensor norm_q, norm_k;  ///< [head_dim]
};

struct Flux2Weights {
    LinearSlot time_in, time_out, guidance_in, guidance_out;
    LinearSlot modulation_image, modulation_text, modulation_single;  ///< shared by all blocks
    LinearSlot image_in, text_in;
    std::vector<Flux2DoubleWeights> double_blocks;
    std::vector<Flux2SingleWeights> single_blocks;
    LinearSlot norm_out, proj_out;
    std::size_t other_bytes = 0;  ///< stored bytes of what is not in a slot
    Device device;
    WeightFile file;  ///< the weights of float slots are views of it

    static Flux2Weights load(const Flux2Config& config, Checkpoint checkpoint);
    /// All slots that hold a layer, in the order of diffusers' named_modules().
    std::vector<LinearSlot*> slots();
    std::vector<AttentionSlot*> attentions();
};

}  // namespace aerogel
