// Names of FLUX.1's own code (black-forest-labs/flux). The model itself runs in Python only
// (FluxTransformer2DModel).
#pragma once

#include "model/flux_names.h"

namespace aerogel {

inline constexpr auto kFlux1Rows = with_flux_names({
    {"time_in.in_layer", {"time_text_embed.timestep_embedder.linear_1"}},
    {"time_in.out_layer", {"time_text_embed.timestep_embedder.linear_2"}},
    {"vector_in.in_layer", {"time_text_embed.text_embedder.linear_1"}},
    {"vector_in.out_layer", {"time_text_embed.text_embedder.linear_2"}},
    {"guidance_in.in_layer", {"time_text_embed.guidance_embedder.linear_1"}},
    {"guidance_in.out_layer", {"time_text_embed.guidance_embedder.linear_2"}},
    {"double_blocks.*.img_mod.lin", {"transformer_blocks.*.norm1.linear"}},
    {"double_blocks.*.txt_mod.lin", {"transformer_blocks.*.norm1_context.linear"}},
    {"double_blocks.*.img_mlp.0", {"transformer_blocks.*.ff.net.0.proj"}},
    {"double_blocks.*.img_mlp.2", {"transformer_blocks.*.ff.net.2"}},
    {"double_blocks.*.txt_mlp.0", {"transformer_blocks.*.ff_context.net.0.proj"}},
    {"double_blocks.*.txt_mlp.2", {"transformer_blocks.*.ff_context.net.2"}},
    {"single_blocks.*.modulation.lin", {"single_transformer_blocks.*.norm.linear"}},
    // The feed-forward part is four times as wide as the model.
    {"single_blocks.*.linear1",
     {"single_transformer_blocks.*.attn.to_q", "single_transformer_blocks.*.attn.to_k",
      "single_transformer_blocks.*.attn.to_v", "single_transformer_blocks.*.proj_mlp"},
     false,
     {1, 1, 1, 4}},
    {"single_blocks.*.linear2", {"single_transformer_blocks.*.proj_out"}},
});

inline constexpr OriginalNames kFlux1Names = {.marker = "double_blocks.0.img_mod.lin.", .rows = kFlux1Rows};

}  // namespace aerogel
