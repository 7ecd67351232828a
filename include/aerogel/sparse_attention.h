// Attention that computes only the blocks that matter: RainFusion (arXiv 2505.21036, 2512.24086), adaptive
// block sparse attention by antidiagonal scores (XAttention, arXiv 2503.16428), or a mask that is given.
// layer: sparse
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "aerogel/tensor.h"

namespace aerogel {

enum class SparseType : std::uint8_t { none, rf_v1, rf_v2, rf_v3, ada_bsa };
std::string_view to_string(SparseType type);

/// "rf_v1" ...; InvalidArgument listing the names otherwise.
SparseType sparse_type_from(std::string_view name);

/// Arithmetic of the kept blocks. bf16: that of attention(). rf_v3 only: fp8 = q and k rotated, q, k and v in
/// E4M3 with a scale per 128 query and 256 key tokens; mix = q and k in int8 with a scale per 64 tokens, v in
/// E4M3 per channel. Every type: int8 = integer products with a scale per token and smoothed keys, the
/// default of that format, the fastest but for bf16 with AMX. The mask comes from q, k as they are.
enum class SparsePrecision : std::uint8_t { bf16, fp8, mix, int8 };
/// "bf16" ...; InvalidArgument listing the names otherwise.
SparsePrecision sparse_precision_from(std::string_view name);

/// Tokens of a video latent: frames x height x width, flattened frame by frame.
struct LatentShape {
    std::int64_t frames = 0;
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t tokens() const { return frames * height * width; }
};

/// One video of a sequence that holds several; all tokens outside of the spans count as text.
struct VideoSpan {
    std::int64_t start = 0;  ///< its first token
    LatentShape latent;
};

/// What a head was computed as: rf_v1 chooses among the first four.
enum class HeadType : std::uint8_t { dense, spatial, temporal, textural, block_mean, antidiagonal, given };
std::string_view to_string(HeadType type);

struct SparseOptions {
    SparseType type = SparseType::none;
    AttentionLayout layout = AttentionLayout::bsnd;
    double sparsity = 0.0;          ///< wanted share of skipped blocks, [0, 1)
    LatentShape latent_shape;       ///< rf_*: the video among the queries
    LatentShape latent_shape_k;     ///< rf_v2, rf_v3: the video among the keys; all 0: latent_shape
    std::int64_t txt_len = 0;       ///< text tokens, of the queries and of the keys
    bool txt_first = true;          ///< text is before the video, else behind it
    std::vector<VideoSpan> spans;   ///< instead of latent_shape and txt_len; rf_v1 takes one
    std::int64_t block_size = 128;  ///< 16 .. 128; ada_bsa: a multiple of 8
    std::int64_t block_size_k =
        0;  ///< rf_v3 and a given mask: key tokens per block, 16 .. 256; 0: block_size
    bool protect_first_frame = true;
    double min_recall = 0.0;     ///< rf_v1: a head whose best recall is lower stays dense
    float scale = 0.0F;          ///< <= 0: head_dim^-0.5
    bool is_causal = false;      ///< none and ada_bsa: query i sees no key behind i + k_len - q_len
    bool keep_sink = true;       ///< ada_bsa: the first key block always
    bool keep_recent = true;     ///< ada_bsa: the last key block (causal: the diagonal one) always
    double cdf_threshold = 1.0;  ///< ada_bsa: wanted share of each row's attention, (0, 1]
    SparsePrecision precision = SparsePrecision::bf16;  ///< others than bf16: not with is_causal
    /// The kept blocks are computed with these (layout, mask and scale are the call's) instead of
    /// `precision`; not with is_causal. Null: `precision` decides.
    const AttentionOptions* quantized = nullptr;
    /// fp8: q and k times these [head_dim, head_dim] matrices; no data: a Hadamard matrix.
    TensorView q_rotation = {}, k_rotation = {};
    /// Used instead of predicting one (not for rf_v1): bool, u8 or i8 [batch, heads, query blocks, key
    /// blocks], contiguous, non-zero = computed; batch and heads may be 1. The blocks are those of `mask` in
    /// the report; for rf_v2 and rf_v3 also finer ones, a block is then computed when any of its parts is.
    TensorView mask = {};
    bool return_mask = false;
    /// rf_v1: types of the heads (all batches alike) instead of recognising them: dense, spatial, temporal or
    /// textural. Empty: recognised.
    std::vector<HeadType> head_types = {};
};

/// What one sparse call did.
struct HeadReport {
    HeadType type = HeadType::dense;
    double recall = 1.0;   ///< kept attention mass on ARM's sample (rf_v1 that recognises), else 1
    double density = 1.0;  ///< computed share of the attention map
    /// rf_v1: recall of the spatial, temporal and textural mask; else 0.
    std::array<double, 3> recalls = {};
};
struct SparseReport {
    std::vector<HeadReport> heads;  ///< batch * heads
    double predict_seconds = 0.0;   ///< recognition, orders, means and masks
    double attention_seconds = 0.0;
    bool predicted = true;      ///< false: the mask or the head types were given
    std::string dense_because;  ///< why the call stayed dense ("fewer than 32 video blocks"), or empty
    /// With return_mask: i8 [batch, heads, query blocks, key blocks] of 0 and 1, in the order of the pattern
    /// (docs/sparse_attention.md).
    Tensor mask;
    double density() const;  ///< mean over heads
};

/// o = sparse attention of q, k, v. Tokens are [text | video] or [video | text]. q and o 4-D in
/// options.layout, or [tokens, heads, head_dim]; k and v alike, with as many heads or a divisor of them
/// (GQA). f32 or bf16, head_dim 1..256. InvalidArgument when shapes do not fit the options, or when q or k
/// hold values that are not finite where a mask is to be predicted from them. Returns what was done.
SparseReport sparse_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                              const TensorView& o, const SparseOptions& options);

}  // namespace aerogel
