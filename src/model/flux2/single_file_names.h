// Names of FLUX.2's own code (black-forest-labs/flux2), as single files and GGUF files have them.
#pragma once

#include "model/flux_file_names.h"

namespace aerogel {

inline constexpr auto kFlux2Rules = with_flux_rules({
    {"time_in.in_layer.", {"time_guidance_embed.timestep_embedder.linear_1."}},
    {"time_in.out_layer.", {"time_guidance_embed.timestep_embedder.linear_2."}},
    {"guidance_in.in_layer.", {"time_guidance_embed.guidance_embedder.linear_1."}},
    {"guidance_in.out_layer.", {"time_guidance_embed.guidance_embedder.linear_2."}},
    {"_modulation_img.lin.", {"_modulation_img.linear."}},
    {"_modulation_txt.lin.", {"_modulation_txt.linear."}},
    {"single_stream_modulation.lin.", {"single_stream_modulation.linear."}},
    {".img_mlp.0.", {".ff.linear_in."}},
    {".img_mlp.2.", {".ff.linear_out."}},
    {".txt_mlp.0.", {".ff_context.linear_in."}},
    {".txt_mlp.2.", {".ff_context.linear_out."}},
    {".linear1.", {".attn.to_qkv_mlp_proj."}},
    {".linear2.", {".attn.to_out."}},
});

inline constexpr SingleFileNames kFlux2FileNames = {.marker = "double_stream_modulation_img.lin.",
                                                    .rules = kFlux2Rules};

}  // namespace aerogel
