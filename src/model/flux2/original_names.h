// Names of FLUX.2's own code (github.com/black-forest-labs/flux2).
#pragma once

#include "model/flux_names.h"

namespace aerogel {

inline constexpr auto kFlux2Rows = with_flux_names({
    {"time_in.in_layer", {"time_guidance_embed.timestep_embedder.linear_1"}},
    {"time_in.out_layer", {"time_guidance_embed.timestep_embedder.linear_2"}},
    {"guidance_in.in_layer", {"time_guidance_embed.guidance_embedder.linear_1"}},
    {"guidance_in.out_layer", {"time_guidance_embed.guidance_embedder.linear_2"}},
    {"double_stream_modulation_img.lin", {"double_stream_modulation_img.linear"}},
    {"double_stream_modulation_txt.lin", {"double_stream_modulation_txt.linear"}},
    {"single_stream_modulation.lin", {"single_stream_modulation.linear"}},
    {"double_blocks.*.img_mlp.0", {"transformer_blocks.*.ff.linear_in"}},
    {"double_blocks.*.img_mlp.2", {"transformer_blocks.*.ff.linear_out"}},
    {"double_blocks.*.txt_mlp.0", {"transformer_blocks.*.ff_context.linear_in"}},
    {"double_blocks.*.txt_mlp.2", {"transformer_blocks.*.ff_context.linear_out"}},
    {"single_blocks.*.linear1", {"single_transformer_blocks.*.attn.to_qkv_mlp_proj"}},
    {"single_blocks.*.linear2", {"single_transformer_blocks.*.attn.to_out"}},
});

inline constexpr OriginalNames kFlux2Names = {.marker = "double_stream_modulation_img.lin.",
                                              .rows = kFlux2Rows};

}  // namespace aerogel
