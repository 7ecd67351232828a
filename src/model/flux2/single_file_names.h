// Names of FLUX.2's own code (black-forest-labs/flux2), as single files and GGUF files have them.
#pragma once

#include "quant/weight_file.h"

namespace aerogel {

inline constexpr NameRule kFlux2Rules[] = {
    {"img_in.", {"x_embedder."}},
    {"txt_in.", {"context_embedder."}},
    {"time_in.in_layer.", {"time_guidance_embed.timestep_embedder.linear_1."}},
    {"time_in.out_layer.", {"time_guidance_embed.timestep_embedder.linear_2."}},
    {"guidance_in.in_layer.", {"time_guidance_embed.guidance_embedder.linear_1."}},
    {"guidance_in.out_layer.", {"time_guidance_embed.guidance_embedder.linear_2."}},
    {"_modulation_img.lin.", {"_modulation_img.linear."}},
    {"_modulation_txt.lin.", {"_modulation_txt.linear."}},
    {"single_stream_modulation.lin.", {"single_stream_modulation.linear."}},
    {"final_layer.linear.", {"proj_out."}},
    {"final_layer.adaLN_modulation.1.", {"norm_out.linear."}, /*swap_halves=*/true},
    {"double_blocks.", {"transformer_blocks."}},
    {"single_blocks.", {"single_transformer_blocks."}},
    {".img_attn.qkv.", {".attn.to_q.", ".attn.to_k.", ".attn.to_v."}},
    {".txt_attn.qkv.", {".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj."}},
    {".img_attn.norm.query_norm.", {".attn.norm_q."}},
    {".img_attn.norm.key_norm.", {".attn.norm_k."}},
    {".txt_attn.norm.query_norm.", {".attn.norm_added_q."}},
    {".txt_attn.norm.key_norm.", {".attn.norm_added_k."}},
    {".img_attn.proj.", {".attn.to_out.0."}},
    {".txt_attn.proj.", {".attn.to_add_out."}},
    {".img_mlp.0.", {".ff.linear_in."}},
    {".img_mlp.2.", {".ff.linear_out."}},
    {".txt_mlp.0.", {".ff_context.linear_in."}},
    {".txt_mlp.2.", {".ff_context.linear_out."}},
    {".linear1.", {".attn.to_qkv_mlp_proj."}},
    {".linear2.", {".attn.to_out."}},
    {".norm.query_norm.", {".attn.norm_q."}},
    {".norm.key_norm.", {".attn.norm_k."}},
    {".scale", {".weight"}},
};

inline constexpr SingleFileNames kFlux2FileNames = {.marker = "double_stream_modulation_img.lin.",
                                                    .rules = kFlux2Rules};

}  // namespace aerogel
