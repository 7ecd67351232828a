// The weights of a Wan transformer: Linear layers in named slots (so that they can be replaced), everything
// else as float32 tensors.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/linear.h"
#include "model/checkpoint.h"
#include "model/wan/config.h"

namespace aerogel {

struct WanAttentionWeights {
    AttentionSlot slot;
    LinearSlot to_q, to_k, to_v, to_out;
    LinearSlot add_k, add_v;              ///< image-to-video, attn2 only
    Tensor norm_q, norm_k, norm_added_k;  ///< [inner_dim], undefined = no norm
};

struct WanBlockWeights {
    Tensor scale_shift_table;  ///< [6, inner_dim]: shift, scale, gate of attn1, then of the ffn
    WanAttentionWeights attn1, attn2;
    Tensor norm2_weight, norm2_bias;  ///< undefined without cross_attn_norm
    LinearSlot ffn_in, ffn_out;
};

struct WanImageEmbedderWeights {
    Tensor pos_embed;  ///< [pos_embed_seq_len, image_dim] or undefined
    Tensor norm1_weight, norm1_bias, norm2_weight, norm2_bias;
    LinearSlot ff_in, ff_out;
};

struct WanWeights {
    LinearSlot patch_embedding;  ///< not exchanged: the Conv3d as a product with flattened patches
    LinearSlot time_in, time_out, time_proj, text_in, text_out;
    WanImageEmbedderWeights image;
    std::vector<WanBlockWeights> blocks;
    Tensor scale_shift_table;  ///< [2, inner_dim]: shift, scale of the output norm
    LinearSlot proj_out;
    std::size_t other_bytes = 0;  ///< stored bytes of what is not in a slot
    Device device;
    WeightFile file;  ///< the weights of float slots are views of it

    static WanWeights load(const WanConfig& config, Checkpoint checkpoint);
    /// All slots that hold a layer, in the order of diffusers' named_modules().
    std::vector<LinearSlot*> slots();
    /// attn1 and attn2 of all blocks.
    std::vector<AttentionSlot*> attentions();
};

}  // namespace aerogel
