// RainFusion: attention that computes only the blocks that matter (arXiv 2505.21036, 2512.24086).
// layer: sparse
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "aerogel/tensor.h"

namespace aerogel {

enum class SparseType : std::uint8_t { none, rf_v1, rf_v2 };
std::string_view to_string(SparseType type);
/// "rf_v1" ...; InvalidArgument listing the names otherwise.
SparseType sparse_type_from(std::string_view name);

/// Tokens of a video latent: frames x height x width, flattened frame by frame.
struct LatentShape {
    std::int64_t frames = 0;
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t tokens() const { return frames * height * width; }
};

struct SparseOptions {
    SparseType type = SparseType::none;
    AttentionLayout layout = AttentionLayout::bsnd;
    double sparsity = 0.0;  ///< wanted share of skipped blocks, [0, 1)
    LatentShape latent_shape;
    std::int64_t txt_len = 0;       ///< text tokens, first in the sequence
    std::int64_t block_size = 128;  ///< 16 .. 128
    bool protect_first_frame = true;
    double min_recall = 0.0;  ///< rf_v1: a head whose best recall is lower stays dense
    float scale = 0.0F;       ///< <= 0: head_dim^-0.5
};

/// What rf_v1 recognised a head as; rf_v2 heads are block_mean.
enum class HeadType : std::uint8_t { dense, spatial, temporal, textural, block_mean };
std::string_view to_string(HeadType type);

/// What one sparse call did.
struct HeadReport {
    HeadType type = HeadType::dense;
    double recall = 1.0;   ///< kept attention mass on ARM's sample (rf_v1), else 1
    double density = 1.0;  ///< computed share of the attention map
};
struct SparseReport {
    std::vector<HeadReport> heads;  ///< batch * heads
    double predict_seconds = 0.0;   ///< recognition, pooling, masks, reordering
    double attention_seconds = 0.0;
    std::string dense_because;  ///< why the call stayed dense ("fewer than 32 video blocks"), or empty
    double density() const;     ///< mean over heads
};

/// o = sparse attention of q, k, v ([text | video] tokens in options.layout). InvalidArgument when
/// shapes do not fit latent_shape + txt_len. Returns what was done.
SparseReport sparse_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                              const TensorView& o, const SparseOptions& options);

}  // namespace aerogel
