// Names of Z-Image's own code (Tongyi-MAI/Z-Image), as single files and GGUF files have them.
#pragma once

#include <string_view>

#include "quant/weight_file.h"

namespace aerogel {

inline constexpr NameRule kZImageRules[] = {
    {"final_layer.", {"all_final_layer.2-1."}},
    {"x_embedder.", {"all_x_embedder.2-1."}},
    {".attention.out.", {".attention.to_out.0."}},
    {".attention.k_norm.", {".attention.norm_k."}},
    {".attention.q_norm.", {".attention.norm_q."}},
    {".attention.qkv.", {".attention.to_q.", ".attention.to_k.", ".attention.to_v."}},
};

inline constexpr std::string_view kZImageUnused[] = {"norm_final.weight"};

inline constexpr SingleFileNames kZImageFileNames = {
    .marker = ".attention.qkv.", .rules = kZImageRules, .unused = kZImageUnused};

}  // namespace aerogel
