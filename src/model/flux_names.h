// Names that the code of FLUX.1 and FLUX.2 (black-forest-labs/flux, flux2) shares.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "quant/original_names.h"

namespace aerogel {

// The weights of norms are called "scale" there, and "weight" in newer files of ComfyUI.
inline constexpr OriginalName kFluxNames[] = {
    {"img_in", {"x_embedder"}},
    {"txt_in", {"context_embedder"}},
    {"final_layer.linear", {"proj_out"}},
    {"final_layer.adaLN_modulation.1", {"norm_out.linear"}, /*swap_halves=*/true},
    {"double_blocks.*.img_attn.qkv",
     {"transformer_blocks.*.attn.to_q", "transformer_blocks.*.attn.to_k", "transformer_blocks.*.attn.to_v"}},
    {"double_blocks.*.txt_attn.qkv",
     {"transformer_blocks.*.attn.add_q_proj", "transformer_blocks.*.attn.add_k_proj",
      "transformer_blocks.*.attn.add_v_proj"}},
    {"double_blocks.*.img_attn.norm.query_norm.scale", {"transformer_blocks.*.attn.norm_q.weight"}},
    {"double_blocks.*.img_attn.norm.key_norm.scale", {"transformer_blocks.*.attn.norm_k.weight"}},
    {"double_blocks.*.txt_attn.norm.query_norm.scale", {"transformer_blocks.*.attn.norm_added_q.weight"}},
    {"double_blocks.*.txt_attn.norm.key_norm.scale", {"transformer_blocks.*.attn.norm_added_k.weight"}},
    {"single_blocks.*.norm.query_norm.scale", {"single_transformer_blocks.*.attn.norm_q.weight"}},
    {"single_blocks.*.norm.key_norm.scale", {"single_transformer_blocks.*.attn.norm_k.weight"}},
    {"double_blocks.*.img_attn.norm.query_norm", {"transformer_blocks.*.attn.norm_q"}},
    {"double_blocks.*.img_attn.norm.key_norm", {"transformer_blocks.*.attn.norm_k"}},
    {"double_blocks.*.txt_attn.norm.query_norm", {"transformer_blocks.*.attn.norm_added_q"}},
    {"double_blocks.*.txt_attn.norm.key_norm", {"transformer_blocks.*.attn.norm_added_k"}},
    {"single_blocks.*.norm.query_norm", {"single_transformer_blocks.*.attn.norm_q"}},
    {"single_blocks.*.norm.key_norm", {"single_transformer_blocks.*.attn.norm_k"}},
    {"double_blocks.*.img_attn.proj", {"transformer_blocks.*.attn.to_out.0"}},
    {"double_blocks.*.txt_attn.proj", {"transformer_blocks.*.attn.to_add_out"}},
};

/// The names of one of them, before those that both have.
template <std::size_t N>
constexpr auto with_flux_names(const OriginalName (&own)[N]) {
    std::array<OriginalName, N + std::size(kFluxNames)> all;
    std::copy(std::begin(kFluxNames), std::end(kFluxNames), std::copy(own, own + N, all.begin()));
    return all;
}

}  // namespace aerogel
