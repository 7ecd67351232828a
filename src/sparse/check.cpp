// Argument checks of sparse_attention.
#include "sparse/check.h"

#include <cmath>
#include <limits>
#include <string>

#include "aerogel/error.h"
#include "sparse/head_rows.h"
#include "sparse/types.h"

namespace aerogel {
namespace {

[[noreturn]] void fail(const std::string& what) {
    throw InvalidArgument("[sparse_attention] " + what);
}

std::string describe(const LatentShape& latent) {
    return to_string(Shape{latent.frames, latent.height, latent.width});
}

void check_view(const std::string& name, const TensorView& view, const TensorView& q) {
    const std::string got = name + " " + view.describe();
    if (view.dtype != q.dtype) fail(name + " must have the type of q " + q.describe() + ", got " + got);
    if (view.shape.size() != 4) fail(name + " must have 4 axes, got " + got);
    if (view.device != Device::cpu) fail(name + " must be on the CPU");
    if (!view.strides.empty() && view.strides.size() != 4)
        fail(name + " must have 4 strides, got " + std::to_string(view.strides.size()));
    if (!view.strides.empty() && view.strides[3] != 1 && view.shape[3] > 1)
        fail("the last axis of " + got + " must be contiguous, got stride " +
             std::to_string(view.strides[3]));
    for (const std::int64_t size : view.shape) {
        if (size < 1) fail("no axis may be empty, got " + got);
    }
    if (view.data == nullptr) fail(name + " has no data");
}

void check_arrays(const SparseArrays& call, AttentionLayout layout) {
    const auto& [q, k, v, o] = call;
    if (q.dtype != DType::f32 && q.dtype != DType::bf16)
        fail("q, k, v and o must be f32 or bf16, got q " + q.describe());
    check_view("q", q, q);
    check_view("k", k, q);
    check_view("v", v, q);
    check_view("o", o, q);
    if (q.dim(3) > 256) fail("head_dim must be at most 256, got " + q.describe());
    const std::size_t head_axis = layout == AttentionLayout::bnsd ? 1 : 2;
    if (k.dim(0) != q.dim(0) || k.dim(3) != q.dim(3) || q.dim(head_axis) % k.dim(head_axis) != 0)
        fail("k must have the batch and head_dim of q " + q.describe() +
             ", and its heads or a divisor of them, got k " + k.describe());
    if (v.shape != k.shape) fail("v must have the shape of k " + k.describe() + ", got v " + v.describe());
    if (o.shape != q.shape) fail("o must have the shape of q " + q.describe() + ", got o " + o.describe());
}

void check_blocks(const SparseOptions& options) {
    const SparseTypeRow& row = sparse_type_row(options.type);
    if (options.block_size < 16 || options.block_size > 128)
        fail("block_size must be 16 to 128, got " + std::to_string(options.block_size));
    if (options.type == SparseType::ada_bsa && options.block_size % 8 != 0)
        fail("ada_bsa needs a block_size that is a multiple of 8, got " + std::to_string(options.block_size));
    if (options.block_size_k == 0 || options.block_size_k == options.block_size) return;
    if (!row.own_key_blocks)
        fail(std::string(row.name) + " has one block size for queries and keys, got block_size " +
             std::to_string(options.block_size) + " and block_size_k " +
             std::to_string(options.block_size_k) + "; rf_v3 may have two");
    if (options.block_size_k < 16 || options.block_size_k > 256)
        fail("block_size_k must be 16 to 256, got " + std::to_string(options.block_size_k));
}

void check_options(const SparseOptions& options) {
    const SparseTypeRow& row = sparse_type_row(options.type);
    const std::string name(row.name);
    if (!(options.sparsity >= 0.0 && options.sparsity < 1.0))
        fail("sparsity must be at least 0 and less than 1, got " + std::to_string(options.sparsity) +
             "; 0.8 skips 80 % of the blocks");
    check_blocks(options);
    if (!(options.min_recall >= 0.0 && options.min_recall <= 1.0))
        fail("min_recall must be 0 to 1, got " + std::to_string(options.min_recall));
    if (!(options.cdf_threshold > 0.0 && options.cdf_threshold <= 1.0))
        fail("cdf_threshold must be more than 0 and at most 1, got " + std::to_string(options.cdf_threshold));
    if (!std::isfinite(options.scale)) fail("scale must be finite, got " + std::to_string(options.scale));
    if (options.txt_len < 0) fail("txt_len must not be negative, got " + std::to_string(options.txt_len));
    if (options.is_causal && !row.causal)
        fail(name + " is for video, where no token comes later; is_causal goes with none and ada_bsa");
    const bool is_plain = options.precision == SparsePrecision::bf16;
    if (!is_plain && options.precision != SparsePrecision::int8 && !row.quantizes)
        fail("precision fp8 and mix go with rf_v3, got " + name);
    if ((!is_plain || options.quantized != nullptr) && options.is_causal)
        fail("is_causal goes with precision bf16");
    if (options.mask.data != nullptr && !row.takes_mask)
        fail(name + " makes its own mask per kind of head; a mask goes with none, rf_v2, rf_v3 and ada_bsa");
    if ((options.q_rotation.data != nullptr || options.k_rotation.data != nullptr) &&
        options.precision != SparsePrecision::fp8)
        fail("q_rotation and k_rotation go with precision fp8");
}

void check_latent(const LatentShape& latent) {
    if (latent.frames < 1 || latent.height < 1 || latent.width < 1)
        fail("latent_shape must be positive, got " + describe(latent));
}

// latent has exactly `tokens` tokens. Divisions, because the product of a wrong shape may overflow.
bool holds(const LatentShape& latent, std::int64_t tokens) {
    return tokens > 0 && tokens % latent.frames == 0 && tokens / latent.frames % latent.height == 0 &&
           tokens / latent.frames / latent.height == latent.width;
}

VideoSpan one_video(const SparseOptions& options, const LatentShape& latent, std::int64_t tokens,
                    const std::string& array) {
    check_latent(latent);
    if (!holds(latent, tokens - options.txt_len))
        fail("the sequence must hold txt_len + latent_shape tokens: " + std::to_string(options.txt_len) +
             " + " + describe(latent) + ", got " + std::to_string(tokens) + " (" + array +
             "); the latent shape counts tokens, not pixels");
    return {options.txt_first ? options.txt_len : 0, latent};
}

void check_spans(const SparseOptions& options, std::int64_t q_tokens, std::int64_t k_tokens) {
    if (options.latent_shape.frames != 0 || options.latent_shape_k.frames != 0 || options.txt_len != 0)
        fail("spans stand instead of latent_shape and txt_len; give one of them");
    if (q_tokens != k_tokens)
        fail("spans are the same for q and k, which must have one length, got " + std::to_string(q_tokens) +
             " and " + std::to_string(k_tokens));
    if (options.type == SparseType::rf_v1 && options.spans.size() > 1)
        fail("rf_v1 knows one video, got " + std::to_string(options.spans.size()) +
             " spans; rf_v2 and rf_v3 take several");
    std::int64_t end = 0;
    for (const auto& [start, latent] : options.spans) {
        check_latent(latent);
        const std::int64_t room = q_tokens - start;
        const bool fits = start >= end && room > 0 && latent.frames <= room && latent.height <= room &&
                          latent.width <= room && latent.frames * latent.height <= room &&
                          latent.frames * latent.height * latent.width <= room;
        if (!fits)
            fail("spans must ascend without overlap inside of the " + std::to_string(q_tokens) +
                 " tokens, got start " + std::to_string(start) + " with " + describe(latent) +
                 " behind token " + std::to_string(end));
        end = start + latent.tokens();
    }
}

// Without a video all tokens but the text count as one, so that only text is protected.
VideoSpan no_video(const SparseOptions& options, std::int64_t tokens) {
    if (options.type == SparseType::none) return {0, {1, 1, tokens}};
    if (options.txt_len >= tokens)
        fail("txt_len must be less than the sequence, got " + std::to_string(options.txt_len) + " of " +
             std::to_string(tokens));
    return {options.txt_first ? options.txt_len : 0, {1, 1, tokens - options.txt_len}};
}

void check_head_types(const SparseArrays& call, const SparseOptions& options) {
    if (options.head_types.empty()) return;
    if (options.type != SparseType::rf_v1)
        fail("head_types pin the heads of rf_v1, got " + std::string(to_string(options.type)));
    const std::int64_t batch = call.q.dim(0);
    const std::int64_t heads = call.q.dim(options.layout == AttentionLayout::bnsd ? 1 : 2);
    const auto given = static_cast<std::int64_t>(options.head_types.size());
    if (given != heads && given != batch * heads)
        fail("head_types must name " + std::to_string(heads) + " heads, got " + std::to_string(given));
    for (const HeadType type : options.head_types) {
        if (type > HeadType::textural)
            fail("head_types must be dense, spatial, temporal or textural, got " +
                 std::string(to_string(type)));
    }
}

}  // namespace

SparseSides checked_sides(const SparseArrays& call, const SparseOptions& options) {
    check_arrays(call, options.layout);
    check_options(options);
    check_head_types(call, options);
    const SparseTypeRow& row = sparse_type_row(options.type);
    const std::size_t token_axis = options.layout == AttentionLayout::bnsd ? 2 : 1;
    const std::int64_t q_tokens = call.q.dim(token_axis), k_tokens = call.k.dim(token_axis);
    if (q_tokens != k_tokens && !row.lengths_differ)
        fail(std::string(row.name) + " needs q and k of one length, got " + std::to_string(q_tokens) +
             " and " + std::to_string(k_tokens));
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    if (q_tokens > kMost || k_tokens > kMost) fail("at most 2147483647 tokens, got q " + call.q.describe());
    const std::int64_t block_k = options.block_size_k == 0 ? options.block_size : options.block_size_k;
    const bool sink = options.protect_first_frame && row.has_video;
    SparseSides sides = {{{}, q_tokens, options.block_size, options.sparsity, sink},
                         {{}, k_tokens, block_k, options.sparsity, sink}};
    if (!options.spans.empty() && options.type != SparseType::none) {
        check_spans(options, q_tokens, k_tokens);
        sides.q.videos = sides.k.videos = options.spans;
    } else if (row.has_video) {
        const LatentShape& of_k =
            options.latent_shape_k.frames != 0 ? options.latent_shape_k : options.latent_shape;
        if (!row.lengths_differ && describe(of_k) != describe(options.latent_shape))
            fail(std::string(row.name) + " needs one latent shape for q and k, got " +
                 describe(options.latent_shape) + " and " + describe(of_k));
        sides.q.videos = {one_video(options, options.latent_shape, q_tokens, "q " + call.q.describe())};
        sides.k.videos = {one_video(options, of_k, k_tokens, "k " + call.k.describe())};
    } else {
        sides.q.videos = {no_video(options, q_tokens)};
        sides.k.videos = {no_video(options, k_tokens)};
    }
    return sides;
}

void fail_not_finite(const SparseArrays& call, AttentionLayout layout) {
    const std::string mend =
        ", so no mask can be predicted; give finite numbers, a mask, or the sparse type none";
    for (const bool is_k : {false, true}) {
        const HeadRows rows(is_k ? call.k : call.q, layout);
        for (std::int64_t i = 0; i < rows.maps() * rows.tokens; ++i) {
            float values[256] = {};
            rows.add_row(rows.rows(i / rows.tokens).at(i % rows.tokens), values);
            for (const float x : values) {
                if (!std::isfinite(x))
                    fail(std::string(is_k ? "k" : "q") + " is " + std::to_string(x) + " at batch " +
                         std::to_string(i / rows.tokens / rows.heads) + ", head " +
                         std::to_string(i / rows.tokens % rows.heads) + ", token " +
                         std::to_string(i % rows.tokens) + mend);
            }
        }
    }
    fail("the sums over q and k overflow float32" + mend);
}

}  // namespace aerogel
