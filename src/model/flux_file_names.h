// Names that the code of FLUX.1 and FLUX.2 (black-forest-labs/flux, flux2) shares, as single files and GGUF
// files have them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "quant/weight_file.h"

namespace aerogel {

inline constexpr NameRule kFluxRules[] = {
    {"img_in.", {"x_embedder."}},
    {"txt_in.", {"context_embedder."}},
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
    {".norm.query_norm.", {".attn.norm_q."}},
    {".norm.key_norm.", {".attn.norm_k."}},
    {".scale", {".weight"}},
};

/// The rules of one of them, before those that both have.
template <std::size_t N>
constexpr auto with_flux_rules(const NameRule (&own)[N]) {
    std::array<NameRule, N + std::size(kFluxRules)> all;
    std::copy(std::begin(kFluxRules), std::end(kFluxRules), std::copy(own, own + N, all.begin()));
    return all;
}

}  // namespace aerogel
