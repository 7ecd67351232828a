// Names of Wan's own code (Wan-Video/Wan2.1), as single files and GGUF files have them.
#pragma once

#include "quant/weight_file.h"

namespace aerogel {

inline constexpr NameRule kWanRules[] = {
    {"time_embedding.0.", {"condition_embedder.time_embedder.linear_1."}},
    {"time_embedding.2.", {"condition_embedder.time_embedder.linear_2."}},
    {"text_embedding.0.", {"condition_embedder.text_embedder.linear_1."}},
    {"text_embedding.2.", {"condition_embedder.text_embedder.linear_2."}},
    {"time_projection.1.", {"condition_embedder.time_proj."}},
    {"img_emb.proj.0.", {"condition_embedder.image_embedder.norm1."}},
    {"img_emb.proj.1.", {"condition_embedder.image_embedder.ff.net.0.proj."}},
    {"img_emb.proj.3.", {"condition_embedder.image_embedder.ff.net.2."}},
    {"img_emb.proj.4.", {"condition_embedder.image_embedder.norm2."}},
    {"img_emb.emb_pos", {"condition_embedder.image_embedder.pos_embed"}},
    {"self_attn.", {"attn1."}},
    {"cross_attn.", {"attn2."}},
    {".q.", {".to_q."}},
    {".k.", {".to_k."}},
    {".v.", {".to_v."}},
    {".o.", {".to_out.0."}},
    {".k_img.", {".add_k_proj."}},
    {".v_img.", {".add_v_proj."}},
    {".norm_k_img.", {".norm_added_k."}},
    {".norm3.", {".norm2."}},
    {".ffn.0.", {".ffn.net.0.proj."}},
    {".ffn.2.", {".ffn.net.2."}},
    {"head.modulation", {"scale_shift_table"}},
    {"head.head.", {"proj_out."}},
    {".modulation", {".scale_shift_table"}},
};

inline constexpr SingleFileNames kWanFileNames = {.marker = ".self_attn.", .rules = kWanRules};

}  // namespace aerogel
