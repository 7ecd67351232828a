// The weights of a Qwen-Image transformer: Linear layers in named slots, norms as float32 tensors.
#pragma once

#include <cstddef>
#include <vector>

#include "model/checkpoint.h"
#include "model/qwen_image/config.h"

namespace aerogel {

/// One stream of a block, image or text.
struct QwenImageStreamWeights {
    LinearSlot to_q, to_k, to_v, to_out;
    Tensor norm_q, norm_k;  ///< [head_dim]
    LinearSlot modulation;  ///< -> shift, scale and gate of attention, then of the mlp
    LinearSlot mlp_in, mlp_out;
};

/// The streams meet in one attention.
struct QwenImageBlockWeights {
    AttentionSlot attention;
    QwenImageStreamWeights image, text;
};

struct QwenImageWeights {
    LinearSlot time_in, time_out;
    Tensor text_norm;  ///< [text_dim]
    LinearSlot image_in, text_in;
    std::vector<QwenImageBlockWeights> blocks;
    LinearSlot norm_out, proj_out;
    std::size_t other_bytes = 0;  ///< stored bytes of what is not in a slot
    Device device;
    WeightFile file;  ///< the weights of float slots are views of it

    static QwenImageWeights load(const QwenImageConfig& config, Checkpoint checkpoint);
    /// All slots, in the order of diffusers' named_modules().
    std::vector<LinearSlot*> slots();
    std::vector<AttentionSlot*> attentions();
};

}  // namespace aerogel
