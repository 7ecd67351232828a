// Kernels of o = softmax(scale * q k^T) v per batch and head, over all keys or over the key blocks that a
// BlockMask keeps, in float or with q, k and v in few bits; the scores of floats may have a bias.
//
// With centroids, each block of keys that a row does not keep is one more key of that row: the mean of its
// keys, with the log of their number added to the score, and the mean of its values (arXiv 2603.08982). A
// mean is the float32 sum, token by token, of x * (1 / their number). Behind the keys come the centroids, in
// the order of the blocks; int8 finds their scales as those of tokens, and groups them by themselves.
//
// A map is the attention of one head of one item of the batch, q_len x k_len scores. Map m is head m % heads
// of item m / heads; k and v have maps of their own heads. The word means nothing else in kernels, ops and
// sparse.
//
// Format none: sums and weights are float32. The rounding formats (fp8, mxfp8, mxfp4, mix, int8_qk) are float
// attention of q, k and v rounded as kernels/attention_rounding.h says.
//
// Format int8: q, k and v become integers when the call arrives, both matrix products are exact integer
// products, and the softmax between them is float:
// - q_q[i,c] = clamp(rint(q / q_scale[i] + q_offset), -128, 127), the same for k - k_mean and v - v_mean
// - s[i,j] = sum_c (q_q - q_offset) k_q (int32), x[i,j] = s k_scale[j]
// - t[i,g] = max_j x over the kept keys of group g
// - p[i,j] = rint(w * 2^(f (x - t[i,g]))), f = q_scale[i] scale log2(e); 0 for keys that are not kept. The
//   power may be off by 2^-18 of itself. w is 255; on AVX2, where two products must fit int16, it is 128, and
//   the power may be off by 2^-11
// - a[i,g,c] = sum_j p v_q (int32)
// - o[i,c] = sum_g F a v_scale[g,c] / sum_g F sum_j p + v_shift[c], F = 2^(f t[i,g])
// Groups are kQuantizedKeyGroup keys, from key 0 of the map on. The offset of k adds the same to all scores
// of a query, so it only matters for clamping, as does the mean of k: softmax does not change. Weights are
// relative to the largest of their own group, hence groups far from the row's maximum keep their bits too.
// After SageAttention (Zhang et al. 2024) and SageAttention2, with scales as fine as the CPU gives for free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "aerogel/attention_format.h"
#include "aerogel/block_mask.h"
#include "aerogel/mxfp4_scale.h"
#include "aerogel/tensor.h"

namespace aerogel {

struct AttentionProblem {
    std::int64_t batch = 1;
    std::int64_t heads = 1;     ///< of q and o
    std::int64_t kv_heads = 1;  ///< of k and v, a divisor: map m of q meets map m / group() of k and v
    std::int64_t q_len = 0;
    std::int64_t k_len = 0;
    std::int64_t head_dim = 0;  ///< of q, k, v and o
    DType dtype = DType::f32;   ///< of q, k, v and o: f32, bf16, on CUDA f16; sums are float32
    AttentionFormat format = AttentionFormat::none;
    bool masked = false;
    std::int64_t block_q = 0;  ///< of the mask
    std::int64_t block_k = 0;
    bool causal = false;      ///< query i sees no key behind i + k_len - q_len
    bool biased = false;      ///< scores have a bias
    bool wants_lse = false;   ///< the call has `lse`
    bool hides_keys = false;  ///< the call has `key_mask`; on CUDA only
    bool centroids = false;   ///< of what the mask leaves out; masked and not causal, biased or calibrated

    std::int64_t group() const { return heads / kv_heads; }
    std::int64_t maps() const { return batch * heads; }
    std::int64_t kv_maps() const { return batch * kv_heads; }
    /// Of the bias of a head.
    std::int64_t distances() const { return q_len + k_len - 1; }
    std::int64_t q_blocks() const { return (q_len + block_q - 1) / block_q; }
    std::int64_t k_blocks() const { return (k_len + block_k - 1) / block_k; }
    /// Keys of a block; the last one may have fewer than others.
    std::int64_t keys_of_block(std::int64_t block) const {
        return (block + 1) * block_k <= k_len ? block_k : k_len - block * block_k;
    }
    std::string describe() const;
};

/// Element (b, h, s, d) lies at b*batch + h/shared*head + t*token + d (in elements), where t is s, or
/// order[map][s] with map = b*heads + h, heads those of the problem (kv_heads for k and v): the tokens of a
/// map in any order, which every map then has.
struct AttentionStrides {
    std::int64_t batch = 0;
    std::int64_t head = 0;
    std::int64_t token = 0;
    std::int64_t shared =
        1;  ///< maps that lie in one place: k and v of grouped heads, each with its own order
    const std::int32_t* const* order = nullptr;
};

/// The rows of a BlockMask, from those of map 0 on; no row_start: dense. Row r has columns[row_start[r]] and
/// those behind it, up to row_end[r], or to the next row's where there is no row_end (plans of a device,
/// whose rows may have gaps between them or be those of several maps).
struct MaskRows {
    const std::int64_t* row_start = nullptr;
    const std::int32_t* columns = nullptr;
    const std::int64_t* row_end = nullptr;

    const std::int32_t* first(std::int64_t row) const { return columns + row_start[row]; }
    const std::int32_t* last(std::int64_t row) const {
        return columns + (row_end == nullptr ? row_start[row + 1] : row_end[row]);
    }
    MaskRows from(std::int64_t row) const {
        return {row_start + row, columns, row_end == nullptr ? nullptr : row_end + row};
    }
};

/// Keys that share one scale per channel of v, and the largest weight of a query.
constexpr std::int64_t kQuantizedKeyGroup = 64;

/// The largest weights there are.
constexpr float kWideWeight = 255.0F, kNarrowWeight = 128.0F;

/// Tokens per partial sum of a mean, which fixes the order of the additions: in float32 over a few tokens, in
/// double over all of those.
constexpr std::int64_t kMeanTokens = 512, kFloatTokens = 8;
constexpr std::int64_t mean_portions(std::int64_t tokens) {
    return (tokens + kMeanTokens - 1) / kMeanTokens;
}

/// What int8 quantizes with. Arrays start at map 0, of q or of k and v. A scale that is NaN makes NaN what
/// depends on it: the query's output, that of every query that sees the key, or the channel for every query
/// that sees the group.
struct Int8Arrays {
    float* q_scale = nullptr;   ///< [maps, q_len], positive or NaN
    float* k_scale = nullptr;   ///< [kv_maps, k_len], positive or NaN
    float* v_scale = nullptr;   ///< [kv_maps, groups of keys, head_dim], positive or NaN
    float* q_offset = nullptr;  ///< [maps], whole numbers -128..127; null = 0
    float* k_offset = nullptr;  ///< [kv_maps]; null = 0
    float* v_offset = nullptr;  ///< [kv_maps]; null = 0
    float* k_mean = nullptr;    ///< [kv_maps, head_dim]; null = 0
    float* v_mean = nullptr;    ///< [kv_maps, head_dim]; null = 0
    float* v_shift = nullptr;   ///< [kv_maps, head_dim], added to o at the end; null = 0
    double* sums = nullptr;     ///< scratch of find_scales(): [kv_maps, mean_portions(k_len), head_dim]
    /// run() finds the scales of tokens itself, as it reads them all anyway: find_scales() stops at the
    /// means, q_scale and k_scale are not read, and v_scale is where run() puts those of v. Only with a scale
    /// per token: each task would have to find that of a whole block anew.
    bool on_the_way = false;
};

struct AttentionCall {
    const void* q = nullptr;
    const void* k = nullptr;
    const void* v = nullptr;
    void* o = nullptr;
    AttentionStrides q_strides, k_strides, v_strides, o_strides;
    float scale = 1.0F;
    /// Of problem.biased: [heads, distances()], j - i + q_len - 1 for row i of q and j of k.
    const float* bias = nullptr;
    MaskRows mask;  ///< of problem.masked. A query row that sees no key gives zeros.
    /// Of problem.hides_keys: [batch, k_len] bytes, 0 for keys that no query sees; and the same as bits of
    /// words for each item, where a kernel has made them.
    const std::uint8_t* key_mask = nullptr;
    const std::uint64_t* key_words = nullptr;
    /// Of problem.wants_lse, else null: [maps, q_len], where token t of a map of q is at t whatever the
    /// order. log sum_j exp(scale q k_j + bias) over the keys that the query sees; -infinity where it sees
    /// none. Of the scores that the format computes: without what the mean and the offset of k take off.
    float* lse = nullptr;
    /// Formats other than none: tokens per scale of q and of k, and whether k loses its mean.
    std::int64_t q_tokens = 1, k_tokens = 1;
    std::int64_t v_tokens = 1, v_channels = 1;  ///< fp8: per scale of v
    Mxfp4Scale mxfp4_scale = {};
    bool smooth_k = true;
    Int8Arrays int8;                 ///< of the format int8
    std::byte* workspace = nullptr;  ///< workspace_bytes(problem), 64-byte aligned
    void* stream = nullptr;          ///< of the device (Context::stream)
};

/// Formats that one kernel computes.
using AttentionFormats = std::uint32_t;
template <typename... Format>
constexpr AttentionFormats formats_of(Format... formats) {
    return ((AttentionFormats{1} << static_cast<unsigned>(formats)) | ...);
}
constexpr AttentionFormats kFloatFormats = formats_of(AttentionFormat::none);
constexpr AttentionFormats kInt8Formats = formats_of(AttentionFormat::int8);
constexpr AttentionFormats kRoundingFormats =
    formats_of(AttentionFormat::fp8, AttentionFormat::mxfp8, AttentionFormat::mxfp4, AttentionFormat::mix,
               AttentionFormat::int8_qk);

struct AttentionKernel {
    std::string_view name;  ///< "cpu.avx512.attention"
    AttentionFormats formats;
    std::string (*why_not)(const AttentionProblem& problem);
    std::size_t (*workspace_bytes)(const AttentionProblem& problem);
    void (*run)(const AttentionProblem& problem, const AttentionCall& call) noexcept;
    /// int8, else null: into call.int8, largest value / 127 per block of tokens of q and k and per channel
    /// and group of keys of v, after the means of v and, with smooth_k, of k; 1 where all are zeros, NaN
    /// where a value is not finite. The bits are the same for all kernels, and whether found here or by
    /// run().
    void (*find_scales)(const AttentionProblem& problem, const AttentionCall& call) noexcept = nullptr;
    float largest_weight = 0.0F;  ///< int8
    /// To bfloat16, before the product with v; numbers of bfloat16 below 2^-126 then count as zero.
    bool rounds_weights = false;
    /// Where operands are sums of two shorter numbers: of a product of two, relative to itself. Infinities
    /// then count as NaN, and numbers below 2^-126 as zero.
    float product_error = 0.0F;

    /// Whether the problem's format is one of the kernel's. Others do not concern it.
    bool is_for(const AttentionProblem& problem) const { return (formats & formats_of(problem.format)) != 0; }
};

/// Of kernels that refuse nothing.
std::string takes_all(const AttentionProblem& problem);
/// Of kernels that are not for causal attention, and for none with a bias.
std::string takes_all_keys(const AttentionProblem& problem);
/// Of kernels that add nothing to the scores.
std::string takes_no_bias(const AttentionProblem& problem);
/// Of kernels that compute what the mask keeps and nothing else.
std::string takes_no_centroids(const AttentionProblem& problem);

}  // namespace aerogel
