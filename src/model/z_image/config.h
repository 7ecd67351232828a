// config.json of diffusers' ZImageTransformer2DModel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "aerogel/transformer.h"
#include "model/rotary.h"

namespace aerogel {

/// The fields of config.json, same names and defaults. The base's num_layers counts the blocks that the image
/// goes through, its text_dim is cap_feat_dim.
struct ZImageConfig : TransformerConfig {
    std::int64_t dim = 3840;
    std::int64_t n_layers = 30;
    std::int64_t n_refiner_layers = 2;
    bool qk_norm = true;
    float norm_eps = 1e-5F;
    float t_scale = 1000.0F;
    RotaryAxes rotary = {{32, 48, 48}, 256.0, AngleSteps::rounded};  ///< rope_theta, axes_dims
    std::vector<std::int64_t> axes_lens = {1024, 512, 512};          ///< positions along each axis

    /// Reads config.json; InvalidArgument on missing or wrong content, and for what is not supported: several
    /// patch sizes, patches of several frames, SigLIP features.
    static ZImageConfig read(const std::filesystem::path& path);
    /// Width of what blocks are modulated by.
    std::int64_t modulation_dim() const { return std::min<std::int64_t>(dim, 256); }
    std::int64_t hidden_dim() const {
        return static_cast<std::int64_t>(static_cast<double>(dim) / 3.0 * 8.0);
    }
};

}  // namespace aerogel
