// Attention that computes only the blocks that matter: RainFusion (arXiv 2505.21036, 2512.24086), adaptive
// block sparse attention by antidiagonal scores (XAttention, arXiv 2503.16428), or a mask that is given.
// plan_sparse() decides which blocks these are, attention() computes them.
// layer: sparse
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/block_mask.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// What a user chooses. A type reads some of these, see src/sparse/patterns/table.cpp.
struct SparsePattern {
    std::string type = "none";      ///< "rf_v1", "rf_v2", "rf_v3", "ada_bsa"; "none": dense, or a given mask
    double sparsity = 0.0;          ///< share of the blocks to skip, [0, 1)
    std::int64_t block_size = 128;  ///< tokens per block, 16 .. 128; ada_bsa: a multiple of 8
    /// rf_v3 and a given mask: tokens per key block, 16 .. 256; 0: block_size.
    std::int64_t block_size_kv = 0;
    bool protect_first_frame = true;  ///< rf_*: the first frame of a video is computed in full
    double min_recall = 0.0;          ///< rf_v1: a head whose best recall is lower stays dense
    double cdf_threshold = 1.0;       ///< ada_bsa: wanted share of each row's attention, (0, 1]
    bool keep_sink = true;            ///< ada_bsa: the first key block always
    bool keep_recent = true;          ///< ada_bsa: the last key block (causal: the diagonal one) always
    /// rf_v1: a head gets the mask whose output errs least on a sample, instead of the one that keeps most of
    /// its attention. Needs SparsePlanOptions::v.
    bool by_error = false;
    bool centroids = false;  ///< AttentionOptions::centroids, for every type; not with causal

    bool operator==(const SparsePattern&) const = default;
};

/// Names of the types, "none" first.
std::vector<std::string_view> sparse_types();

/// Tokens of a video latent: frames x height x width, flattened frame by frame.
struct LatentShape {
    std::int64_t frames = 0;
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t tokens() const { return frames * height * width; }
    bool operator==(const LatentShape&) const = default;
};

/// One video of a sequence that holds several; all tokens outside of the spans count as text.
struct VideoSpan {
    std::int64_t start = 0;  ///< its first token
    LatentShape latent = {};
};

/// Where video and text lie in a sequence, [text | video] or [video | text].
struct VideoLayout {
    LatentShape latent = {};            ///< rf_*: the video among the queries
    LatentShape latent_k = {};          ///< rf_v2, rf_v3: the video among the keys; all 0: latent
    std::int64_t txt_len = 0;           ///< text tokens, of the queries and of the keys
    bool txt_first = true;              ///< text is before the video, else after it
    std::vector<VideoSpan> spans = {};  ///< instead of the rest; rf_v1 takes one
};

/// The format of a sparse call by its precision: "none", "int8", "int8_qk", "fp8", "mix", "mxfp4"; "bf16" is
/// another word for none. InvalidArgument listing the names otherwise.
AttentionFormat sparse_format_from(std::string_view precision);

/// attention()'s options for a sparse call in that format. int8 and int8_qk: a scale per token and smoothed
/// keys; int8 is the fastest on a CPU but for format none with AMX. fp8, mix and mxfp4 (rf_v3): without
/// smoothing, as in files made for it; fp8 and mxfp4 with q and k rotated by a matrix that the caller adds,
/// such as hadamard_matrix().
AttentionOptions sparse_options(AttentionFormat format);

/// Whether sparse calls in that format are made with rotated q and k: fp8 and mxfp4.
bool rotates_sparse_calls(AttentionFormat format);

/// f32 [head_dim, head_dim]: blocks of a Hadamard matrix (Sylvester) of the largest power of two that divides
/// head_dim, over the root of its order. Orthogonal for every head_dim, so that scores stay. InvalidArgument
/// below 1.
Tensor hadamard_matrix(std::int64_t head_dim);

/// How a plan is made: as the call will be computed, and what is decided already.
struct SparsePlanOptions {
    /// Layout and scale; causal (none and ada_bsa, format none only); the format, where it is asked for by
    /// precision (fp8, mix and mxfp4: rf_v3 only). The mask comes from q and k as they are.
    AttentionOptions attention = {};
    /// Used instead of predicting one (not for rf_v1): bool, u8 or i8 [batch, heads, query blocks, key
    /// blocks], contiguous, non-zero = computed; batch and heads may be 1. The blocks are those of
    /// SparsePlan::cells; for rf_v2 and rf_v3 also finer ones, a block is then computed when any of its parts
    /// is.
    TensorView mask = {};
    /// rf_v1: types of the heads (all batches alike) instead of recognising them: dense, spatial, temporal or
    /// textural. Empty: recognised.
    std::vector<std::string> head_types = {};
    TensorView v = {};        ///< like k; SparsePattern::by_error looks at it
    bool keep_cells = false;  ///< fill SparsePlan::cells
};

/// What one head is computed as.
struct SparseHead {
    std::string_view type = "dense";  ///< or spatial, temporal, textural, block_mean, antidiagonal, given
    double recall = 1.0;              ///< kept attention mass on ARM's sample (rf_v1 that recognises), else 1
    double density = 1.0;             ///< computed share of the attention map
    /// rf_v1 that recognises: the recall of every type it chose among; else empty.
    std::vector<std::pair<std::string_view, double>> recalls = {};
};

/// Mean density; 1 without heads.
double density_of(const std::vector<SparseHead>& heads);

/// Row i of a head's queries and outputs is token q[i] of the sequence, of its keys and values token k[i].
struct TokenLayout {
    std::vector<std::int32_t> q = {}, k = {};
};

struct PlanOnDevice;

/// What is computed of one call. It fits every call of the same sizes.
struct SparsePlan {
    std::vector<SparseHead> heads = {};  ///< batch * heads; of a plan on a device see heads_of()
    std::string dense_because = {};  ///< why the call stays dense ("fewer than 32 video blocks"), or empty
    bool predicted = true;           ///< false: the mask or the head types were given
    bool centroids = false;          ///< skipped blocks count as their means
    double seconds = 0.0;            ///< of making it: recognition, orders, means and masks
    BlockMask mask = {};             ///< over the rows in the orders below; row_start is empty when dense
    std::vector<TokenLayout> orders = {};    ///< that heads have; empty: all tokens as they lie
    std::vector<std::size_t> order_of = {};  ///< index into `orders` per head; empty as they are
    /// With keep_cells: i8 [batch, heads, query blocks, key blocks] of 0 and 1, in the blocks and the order
    /// of the pattern (docs/sparse_attention.md), all 1 when dense.
    Tensor cells = {};
    /// Not null: the plan was made from q and k on a device that decides by itself. Masks and orders lie
    /// there, for calls with arrays there, and those above are empty until on_host().
    std::shared_ptr<const PlanOnDevice> on_device = {};

    double density() const { return density_of(heads); }
};

/// Decides what of softmax(q k^T) is computed. q and k 4-D in the layout, or [tokens, heads, head_dim]; k
/// with as many heads or a divisor of them (GQA). f32 or bf16, on CUDA also f16, head_dim 1..256. On a device
/// the work is put on the stream of the options, and nobody waits for it. InvalidArgument when shapes do not
/// fit the pattern and the video, or on the CPU when q or k hold values that are not finite where a mask is
/// to be predicted from them; elsewhere what such values decide is computed in full.
SparsePlan plan_sparse(const TensorView& q, const TensorView& k, const SparsePattern& pattern,
                       const VideoLayout& video, const SparsePlanOptions& options = {});

/// Of a plan on a device, else null: what heads_of() reads, without the masks.
struct HeadFacts;
std::shared_ptr<const HeadFacts> facts_of(const SparsePlan& plan);

/// What became of each head. Of a plan on a device this waits for it; then every head of a call that would
/// have stayed dense because of its content ("every head is under min_recall") is "dense".
std::vector<SparseHead> heads_of(const SparsePlan& plan);

/// The plan with all it says on the host. Of a plan on a device this waits for it.
SparsePlan on_host(const SparsePlan& plan);

/// The arrays of one call: q and o of one shape, k and v of one.
struct AttentionArrays {
    TensorView q = {}, k = {}, v = {};
    MutableView o = {};
};

/// o = attention of q, k and v over what the plan computes. `options` have no mask, and causal with format
/// none only. InvalidArgument when the arrays do not fit each other, the plan or the options.
void attention(const AttentionArrays& arrays, const SparsePlan& plan, const AttentionOptions& options = {});

}  // namespace aerogel
