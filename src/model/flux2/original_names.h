// Names of github.com/black-forest-labs/flux2.
#pragma once

#include <array>

#include "model/original_names.h"

namespace aerogel {

inline constexpr std::array kFlux2Names = {
    OriginalName{"double_blocks.*.img_attn.qkv",
                 {"transformer_blocks.*.attn.to_q", "transformer_blocks.*.attn.to_k",
                  "transformer_blocks.*.attn.to_v"}},
    OriginalName{"double_blocks.*.txt_attn.qkv",
                 {"transformer_blocks.*.attn.add_q_proj", "transformer_blocks.*.attn.add_k_proj",
                  "transformer_blocks.*.attn.add_v_proj"}},
    OriginalName{"double_blocks.*.img_attn.proj", {"transformer_blocks.*.attn.to_out.0"}},
    OriginalName{"double_blocks.*.txt_attn.proj", {"transformer_blocks.*.attn.to_add_out"}},
    OriginalName{"double_blocks.*.img_mlp.0", {"transformer_blocks.*.ff.linear_in"}},
    OriginalName{"double_blocks.*.img_mlp.2", {"transformer_blocks.*.ff.linear_out"}},
    OriginalName{"double_blocks.*.txt_mlp.0", {"transformer_blocks.*.ff_context.linear_in"}},
    OriginalName{"double_blocks.*.txt_mlp.2", {"transformer_blocks.*.ff_context.linear_out"}},
    OriginalName{"single_blocks.*.linear1", {"single_transformer_blocks.*.attn.to_qkv_mlp_proj"}},
    OriginalName{"single_blocks.*.linear2", {"single_transformer_blocks.*.attn.to_out"}},
    OriginalName{"img_in", {"x_embedder"}},
    OriginalName{"txt_in", {"context_embedder"}},
    OriginalName{"time_in.in_layer", {"time_guidance_embed.timestep_embedder.linear_1"}},
    OriginalName{"time_in.out_layer", {"time_guidance_embed.timestep_embedder.linear_2"}},
    OriginalName{"guidance_in.in_layer", {"time_guidance_embed.guidance_embedder.linear_1"}},
    OriginalName{"guidance_in.out_layer", {"time_guidance_embed.guidance_embedder.linear_2"}},
    OriginalName{"final_layer.linear", {"proj_out"}},
    OriginalName{"final_layer.adaLN_modulation.1", {"norm_out.linear"}, true},
    OriginalName{"single_stream_modulation.lin", {"single_stream_modulation.linear"}},
    OriginalName{"double_stream_modulation_img.lin", {"double_stream_modulation_img.linear"}},
    OriginalName{"double_stream_modulation_txt.lin", {"double_stream_modulation_txt.linear"}},
};

}  // namespace aerogel
