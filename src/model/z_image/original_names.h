// Names of github.com/Tongyi-MAI/Z-Image that differ from those in diffusers.
#pragma once

#include <array>

#include "model/original_names.h"

namespace aerogel {

inline constexpr std::array kZImageNames = {
    OriginalName{"layers.*.attention.qkv",
                 {"layers.*.attention.to_q", "layers.*.attention.to_k", "layers.*.attention.to_v"}},
    OriginalName{"noise_refiner.*.attention.qkv",
                 {"noise_refiner.*.attention.to_q", "noise_refiner.*.attention.to_k",
                  "noise_refiner.*.attention.to_v"}},
    OriginalName{"context_refiner.*.attention.qkv",
                 {"context_refiner.*.attention.to_q", "context_refiner.*.attention.to_k",
                  "context_refiner.*.attention.to_v"}},
    OriginalName{"layers.*.attention.out", {"layers.*.attention.to_out.0"}},
    OriginalName{"noise_refiner.*.attention.out", {"noise_refiner.*.attention.to_out.0"}},
    OriginalName{"context_refiner.*.attention.out", {"context_refiner.*.attention.to_out.0"}},
    OriginalName{"x_embedder", {"all_x_embedder.2-1"}},
    OriginalName{"final_layer.linear", {"all_final_layer.2-1.linear"}},
    OriginalName{"final_layer.adaLN_modulation.1", {"all_final_layer.2-1.adaLN_modulation.1"}},
};

}  // namespace aerogel
