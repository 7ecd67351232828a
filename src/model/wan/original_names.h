// Names of github.com/Wan-Video/Wan2.1 and Wan2.2.
#pragma once

#include <array>

#include "model/original_names.h"

namespace aerogel {

inline constexpr std::array kWanNames = {
    OriginalName{"blocks.*.self_attn.q", {"blocks.*.attn1.to_q"}},
    OriginalName{"blocks.*.self_attn.k", {"blocks.*.attn1.to_k"}},
    OriginalName{"blocks.*.self_attn.v", {"blocks.*.attn1.to_v"}},
    OriginalName{"blocks.*.self_attn.o", {"blocks.*.attn1.to_out.0"}},
    OriginalName{"blocks.*.cross_attn.q", {"blocks.*.attn2.to_q"}},
    OriginalName{"blocks.*.cross_attn.k", {"blocks.*.attn2.to_k"}},
    OriginalName{"blocks.*.cross_attn.v", {"blocks.*.attn2.to_v"}},
    OriginalName{"blocks.*.cross_attn.o", {"blocks.*.attn2.to_out.0"}},
    OriginalName{"blocks.*.cross_attn.k_img", {"blocks.*.attn2.add_k_proj"}},
    OriginalName{"blocks.*.cross_attn.v_img", {"blocks.*.attn2.add_v_proj"}},
    OriginalName{"blocks.*.ffn.0", {"blocks.*.ffn.net.0.proj"}},
    OriginalName{"blocks.*.ffn.2", {"blocks.*.ffn.net.2"}},
    OriginalName{"time_embedding.0", {"condition_embedder.time_embedder.linear_1"}},
    OriginalName{"time_embedding.2", {"condition_embedder.time_embedder.linear_2"}},
    OriginalName{"time_projection.1", {"condition_embedder.time_proj"}},
    OriginalName{"text_embedding.0", {"condition_embedder.text_embedder.linear_1"}},
    OriginalName{"text_embedding.2", {"condition_embedder.text_embedder.linear_2"}},
    OriginalName{"img_emb.proj.1", {"condition_embedder.image_embedder.ff.net.0.proj"}},
    OriginalName{"img_emb.proj.3", {"condition_embedder.image_embedder.ff.net.2"}},
    OriginalName{"head.head", {"proj_out"}},
};

}  // namespace aerogel
