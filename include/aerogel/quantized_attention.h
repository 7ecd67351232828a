// Attention on q, k and v in few bits: int8 with integer products, or the rounding of FP8, MXFP8 and MXFP4.
// layer: ops
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "aerogel/attention.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// int8: both products in exact integers, weights of the softmax in 8 bits. The others round q, k and v to
/// what the format holds and compute in float32: E4M3 with a float scale per block of tokens (fp8), or the
/// OCP Microscaling formats in blocks of 32, along head_dim for q and k, along tokens for v. mix rounds q and
/// k to int8 per block of tokens and v to E4M3 per channel.
enum class AttentionFormat : std::uint8_t { int8, fp8, mxfp8, mxfp4, mix };

/// Calibrated int8 scales, what fa_q, fa_k and fa_v of a model hold: f32 of `heads` values ([heads,1] or
/// [heads]). x_q = round(x / scale + offset) in -128..127. Undefined offsets are 0; they must be whole
/// numbers.
struct AttentionScales {
    Tensor q_scale, k_scale, v_scale;
    Tensor q_offset, k_offset, v_offset;
};

struct QuantizedAttentionOptions {
    AttentionLayout layout = AttentionLayout::bsnd;
    const BlockMask* mask = nullptr;  ///< null = dense; a query row without any kept block gives zeros
    float scale = 0.0F;               ///< <= 0: head_dim^-0.5
    AttentionFormat format = AttentionFormat::int8;
    /// Takes the mean over tokens off every channel of k, which changes no weight (SageAttention, Zhang et
    /// al. 2024).
    bool smooth_k = true;
    /// Tokens per scale of int8, fp8 (there for v too) and mix. 0: 1 and 1 for int8, 128 and 256 for fp8, 64
    /// and 64 for mix.
    std::int64_t q_tokens = 0, k_tokens = 0;
    /// q and k are first multiplied by these [head_dim, head_dim] matrices (f32 or bf16), orthogonal and the
    /// same where scores are to stay. No data: none.
    TensorView q_rotation = {}, k_rotation = {};
    const AttentionScales* scales = nullptr;  ///< int8 only: these instead of scales found in the data
};

/// attention() with quantized q, k and v; shapes, types and errors as there, but k and v may have fewer heads
/// than q: each then serves as many of q's as the numbers divide (GQA). docs/attention.md has the arithmetic.
/// A value that is not finite makes NaN all outputs whose scale it spoils.
void quantized_attention(const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& o,
                         const QuantizedAttentionOptions& options = {});

/// Sequences packed one behind the other: q, k, v, o [tokens, heads, head_dim]. Sequence i has seq_len[i]
/// tokens, which attend to each other only; the lengths sum to `tokens`. k and v may have fewer heads, as
/// above.
struct PackedSequences {
    TensorView q, k, v, o;
    std::span<const std::int64_t> seq_len;
};

/// quantized_attention() of every sequence. options.mask must be null, the layout is ignored.
void quantized_attention_packed(const PackedSequences& sequences,
                                const QuantizedAttentionOptions& options = {});

/// How one attention module of a model is quantized.
struct AttentionQuantization {
    std::string quant_type;  ///< of the file format: "FP8_DYNAMIC", "FAQUANT" ...
    AttentionFormat format = AttentionFormat::int8;
    Tensor q_rotation, k_rotation;          ///< [head_dim, head_dim] f32 or bf16, both or none
    std::optional<AttentionScales> scales;  ///< calibrated int8
};

}  // namespace aerogel
