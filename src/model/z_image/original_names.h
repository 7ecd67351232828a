// Names of Z-Image's own code (github.com/Tongyi-MAI/Z-Image) that differ from those in diffusers.
#pragma once

#include <string_view>

#include "quant/original_names.h"

namespace aerogel {

inline constexpr OriginalName kZImageRows[] = {
    {"x_embedder", {"all_x_embedder.2-1"}},
    {"final_layer", {"all_final_layer.2-1"}},
    {"layers.*.attention.qkv",
     {"layers.*.attention.to_q", "layers.*.attention.to_k", "layers.*.attention.to_v"}},
    {"layers.*.attention.out", {"layers.*.attention.to_out.0"}},
    {"layers.*.attention.q_norm", {"layers.*.attention.norm_q"}},
    {"layers.*.attention.k_norm", {"layers.*.attention.norm_k"}},
    {"noise_refiner.*.attention.qkv",
     {"noise_refiner.*.attention.to_q", "noise_refiner.*.attention.to_k", "noise_refiner.*.attention.to_v"}},
    {"noise_refiner.*.attention.out", {"noise_refiner.*.attention.to_out.0"}},
    {"noise_refiner.*.attention.q_norm", {"noise_refiner.*.attention.norm_q"}},
    {"noise_refiner.*.attention.k_norm", {"noise_refiner.*.attention.norm_k"}},
    {"context_refiner.*.attention.qkv",
     {"context_refiner.*.attention.to_q", "context_refiner.*.attention.to_k",
      "context_refiner.*.attention.to_v"}},
    {"context_refiner.*.attention.out", {"context_refiner.*.attention.to_out.0"}},
    {"context_refiner.*.attention.q_norm", {"context_refiner.*.attention.norm_q"}},
    {"context_refiner.*.attention.k_norm", {"context_refiner.*.attention.norm_k"}},
};

inline constexpr std::string_view kZImageUnused[] = {"norm_final.weight"};

inline constexpr OriginalNames kZImageNames = {
    .marker = ".attention.qkv.", .rows = kZImageRows, .unused = kZImageUnused};

}  // namespace aerogel
