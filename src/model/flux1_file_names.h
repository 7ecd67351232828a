// Names of FLUX.1's own code (black-forest-labs/flux), as single files and GGUF files have them. The model
// itself runs in Python only (FluxTransformer2DModel).
#pragma once

#include "model/flux_file_names.h"

namespace aerogel {

inline constexpr auto kFlux1Rules = with_flux_rules({
    {"time_in.in_layer.", {"time_text_embed.timestep_embedder.linear_1."}},
    {"time_in.out_layer.", {"time_text_embed.timestep_embedder.linear_2."}},
    {"vector_in.in_layer.", {"time_text_embed.text_embedder.linear_1."}},
    {"vector_in.out_layer.", {"time_text_embed.text_embedder.linear_2."}},
    {"guidance_in.in_layer.", {"time_text_embed.guidance_embedder.linear_1."}},
    {"guidance_in.out_layer.", {"time_text_embed.guidance_embedder.linear_2."}},
    {".img_mod.lin.", {".norm1.linear."}},
    {".txt_mod.lin.", {".norm1_context.linear."}},
    {".img_mlp.0.", {".ff.net.0.proj."}},
    {".img_mlp.2.", {".ff.net.2."}},
    {".txt_mlp.0.", {".ff_context.net.0.proj."}},
    {".txt_mlp.2.", {".ff_context.net.2."}},
    {".modulation.lin.", {".norm.linear."}},
    // The feed-forward part is four times as wide as the model.
    {".linear1.", {".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp."}, false, {1, 1, 1, 4}},
    {".linear2.", {".proj_out."}},
});

inline constexpr SingleFileNames kFlux1FileNames = {.marker = "double_blocks.0.img_mod.lin.",
                                                    .rules = kFlux1Rules};

}  // namespace aerogel
