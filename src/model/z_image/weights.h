// The weights of a Z-Image transformer: Linear layers in named slots, norms and pad tokens as float32
// tensors.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/z_image/config.h"

namespace aerogel {

struct ZImageBlockWeights {
    AttentionSlot attention;
    LinearSlot to_q, to_k, to_v, to_out;
    Tensor norm_q, norm_k;                                          ///< [head_dim], undefined without qk_norm
    LinearSlot w1, w2, w3;                                          ///< w2(silu(w1 x) * w3 x)
    Tensor attention_norm1, attention_norm2, ffn_norm1, ffn_norm2;  ///< [dim]
    LinearSlot modulation;  ///< -> scale and gate of attention, then of the ffn; none in the context refiner
};

struct ZImageWeights {
    LinearSlot x_embedder, final_linear, final_modulation;
    std::vector<ZImageBlockWeights> noise_refiner, context_refiner;
    LinearSlot time_in, time_out;
    Tensor cap_norm;  ///< [cap_feat_dim]
    LinearSlot cap_embedder;
    std::vector<ZImageBlockWeights> layers;
    Tensor x_pad_token, cap_pad_token;  ///< [1, dim]
    std::size_t other_bytes = 0;        ///< stored bytes of what is not in a slot
    Device device;
    WeightFile file;  ///< the weights of float slots are views of it

    static ZImageWeights load(const ZImageConfig& config, Checkpoint checkpoint);
    /// All slots that hold a layer, in the order of diffusers' named_modules().
    std::vector<LinearSlot*> slots();
    std::vector<AttentionSlot*> attentions();
};

}  // namespace aerogel
