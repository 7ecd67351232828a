// Scaled dot-product attention on the CPU: dense or by the blocks of a mask, in float or few bits.
// layer: ops
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "aerogel/attention_format.h"
#include "aerogel/block_mask.h"
#include "aerogel/context.h"
#include "aerogel/mxfp4_scale.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// Order of the axes of q, k, v and o: [batch, heads, tokens, head_dim] or [batch, tokens, heads, head_dim].
enum class AttentionLayout : std::uint8_t { bnsd, bsnd };

/// Calibrated int8 scales, what fa_q, fa_k and fa_v of a model hold: f32 of `heads` values ([heads,1] or
/// [heads]). x_q = round(x / scale + offset) in -128..127. Undefined offsets are 0; they must be whole
/// numbers.
struct AttentionScales {
    Tensor q_scale = {}, k_scale = {}, v_scale = {};
    Tensor q_offset = {}, k_offset = {}, v_offset = {};
};

struct AttentionOptions {
    AttentionLayout layout = AttentionLayout::bsnd;
    const BlockMask* mask = nullptr;  ///< null = dense; a query row that sees no key gives zeros
    /// With a mask: what it leaves out is not lost. Every block of keys that a row of query blocks skips
    /// counts as its number of keys at their mean, with their mean value (Centroid attention, arXiv
    /// 2603.08982). Not with causal, bias or calibrated scales, and on the CPU only. A value that is not
    /// finite then also reaches queries that skip its block.
    bool centroids = false;
    float scale = 0.0F;   ///< finite; <= 0: head_dim^-0.5
    bool causal = false;  ///< query i sees no key after i + k_len - q_len; not with int8
    /// f32 [heads of q, q_len + k_len - 1], or no data: [h, j - i + q_len - 1] is added to the score of query
    /// i and key j in head h (relative position bias; Raffel et al., T5, 2020). Format none only.
    TensorView bias = {};
    /// bool, u8 or i8 [batch, k_len], contiguous, on q's device, or no data: no query sees keys whose byte is
    /// 0, such as padding; they count as keys that a mask does not keep. On CUDA only (elsewhere give the
    /// keys that are seen), not with token orders.
    TensorView key_mask = {};
    /// f32 [batch, heads of q, q_len], contiguous, or no data: gets log sum_j exp(scale q k_j + bias) of
    /// every query, -infinity where it sees no key. Partial results over some of the keys each are put
    /// together with it (ring attention; Liu et al., 2023). Formats other than none: with smooth_k = false
    /// and without calibrated scales, which both change the sum.
    MutableView lse = {};
    /// What follows is for formats other than none.
    AttentionFormat format = AttentionFormat::none;
    /// Subtracts from every channel of k its mean over the tokens, which leaves the softmax weights as they
    /// are (SageAttention, Zhang et al. 2024).
    bool smooth_k = true;
    /// Tokens per scale of int8, fp8 (there for v too) and mix. 0: 1 and 1 for int8, 128 and 256 for fp8, 64
    /// and 64 for mix.
    std::int64_t q_tokens = 0, k_tokens = 0;
    /// fp8: tokens per scale of v (0: k_tokens), and channels per scale of v (0: all).
    std::int64_t v_tokens = 0, v_channels = 0;
    Mxfp4Scale mxfp4_scale = {};  ///< mxfp4
    /// q and k are first multiplied by these [head_dim, head_dim] matrices (f32 or bf16), which must be
    /// orthogonal and equal for the scores to stay the same. No data: none.
    TensorView q_rotation = {}, k_rotation = {};
    const AttentionScales* scales = nullptr;  ///< int8 only: these instead of scales found in the data
    Context call = {};                        ///< threads and stream
};

/// o = softmax(scale * q k^T + bias) v per head. q, k, v, o: one dtype (f32 or bf16, on CUDA also f16), 4-D
/// in options.layout, head_dim 1..256, last axis contiguous; q_len and k_len may differ. k and v may have
/// fewer heads than q: head h then reads theirs h / (q heads / k heads) (GQA, Ainslie et al. 2023). o
/// shares no memory with q, k, v and lse. InvalidArgument when shapes or options do not fit. Format none:
/// sums are float32, as are the softmax weights; with AMX or AVX-512 BF16 those of bf16 are rounded to bf16
/// before they are multiplied with v, and numbers below 2^-126 count as zero. Causal: a NaN or infinity in v
/// also reaches queries up to 127 tokens before it. Other formats (docs/attention.md has the arithmetic): a
/// value that is not finite makes NaN all outputs whose scale it spoils.
void attention(const TensorView& q, const TensorView& k, const TensorView& v, const MutableView& o,
               const AttentionOptions& options = {});

/// Sequences packed one after the other: q, k, v, o [tokens, heads, head_dim]. Sequence i has seq_len[i]
/// tokens, which attend to each other only; the lengths sum to `tokens`. k and v may have fewer heads, as
/// above.
struct PackedSequences {
    TensorView q = {}, k = {}, v = {};
    MutableView o = {};
    std::span<const std::int64_t> seq_len = {};
};

/// attention() of every sequence. options.mask must be null, the layout is ignored.
void attention_packed(const PackedSequences& sequences, const AttentionOptions& options = {});

/// How one attention module of a model is quantized.
struct AttentionQuantization {
    std::string quant_type = {};  ///< of the file format: "FP8_DYNAMIC", "FAQUANT" ...
    AttentionFormat format = AttentionFormat::int8;
    Tensor q_rotation = {}, k_rotation = {};     ///< [head_dim, head_dim] f32 or bf16, both or none
    std::optional<AttentionScales> scales = {};  ///< calibrated int8
};

}  // namespace aerogel
