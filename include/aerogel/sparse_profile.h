// What mining found about a model's attention: which of RainFusion's static masks (arXiv 2505.21036) each
// head gets at which sampling steps.
// layer: sparse
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "aerogel/sparse_attention.h"

namespace aerogel {

/// One head during the steps first_step <= step < end_step.
struct ProfileSpan {
    int first_step = 0;
    int end_step = 0;
    std::string type = "dense";  ///< or spatial, temporal, textural
    double recall = 1.0;         ///< mean share of the sampled attention that the type's mask keeps
};

/// File form (JSON): {"aerogel_sparse_profile": 1, "latent_shape": [t,h,w], "block_size", "sparsity",
/// "protect_first_frame", "steps", "layers": [[head: [[first_step, end_step, type, recall], ...], ...],
/// ...]}.
struct SparseProfile {
    LatentShape latent_shape =
        {};  ///< of the mined videos, in tokens; others may use the profile all the same
    SparsePattern pattern = {.type = "rf_v1"};  ///< its sparsity, block size and protect_first_frame
    int steps = 0;
    /// [layer][head]: spans that cover 0 .. steps.
    std::vector<std::vector<std::vector<ProfileSpan>>> layers = {};

    /// IoError when unreadable; InvalidArgument (key, expected, found) when it is not such a file.
    static SparseProfile read(const std::filesystem::path& path);
    /// Written under a temporary name first, then renamed. IoError.
    void write(const std::filesystem::path& path) const;
    /// Types of a layer's heads at a step; a negative or unknown step gets the first span, steps past the end
    /// the last. InvalidArgument when there is no such layer.
    std::vector<std::string> head_types(int layer, int step) const;
};

}  // namespace aerogel
