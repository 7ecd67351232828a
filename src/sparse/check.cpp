// Argument checks of sparse_attention.
#include "sparse/check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <variant>

#include "aerogel/error.h"
#include "sparse/head_rows.h"
#include "sparse/parameters.h"
#include "sparse/planned_arrays.h"

namespace aerogel {
namespace {

[[noreturn]] void fail(const std::string& what) {
    throw InvalidArgument("[sparse_attention] " + what);
}

std::string describe(const LatentShape& latent) {
    return to_string(Shape{latent.frames, latent.height, latent.width});
}

// "dense, spatial, temporal or textural".
std::string heads_of(const SparseTypeRow& row) {
    std::string text = "dense";
    for (const HeadPattern* pattern : row.head_patterns())
        text += (pattern == row.head_patterns().back() ? " or " : ", ") + std::string(pattern->name);
    return text;
}

void check_view(const std::string& name, const TensorView& view, const TensorView& q) {
    const std::string got = name + " " + view.describe();
    if (view.dtype != q.dtype) fail(name + " must have the type of q " + q.describe() + ", got " + got);
    if (view.shape.size() != 4) fail(name + " must have 4 axes, got " + got);
    if (view.device != q.device)
        fail(name + " must be on " + (q.device == Device::cpu ? "the CPU" : q.device.describe()) + " as q");
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

void check_q_and_k(const TensorView& q, const TensorView& k, AttentionLayout layout) {
    const bool f16_too = q.device != Device::cpu;
    if (q.dtype != DType::f32 && q.dtype != DType::bf16 && !(f16_too && q.dtype == DType::f16))
        fail(std::string("q, k, v and o must be f32") + (f16_too ? ", bf16 or f16" : " or bf16") +
             ", got q " + q.describe());
    check_view("q", q, q);
    check_view("k", k, q);
    if (q.dim(3) > 256) fail("head_dim must be at most 256, got " + q.describe());
    const std::size_t head_axis = layout == AttentionLayout::bnsd ? 1 : 2;
    if (k.dim(0) != q.dim(0) || k.dim(3) != q.dim(3) || q.dim(head_axis) % k.dim(head_axis) != 0)
        fail("k must have the batch and head_dim of q " + q.describe() +
             ", and its heads or a divisor of them, got k " + k.describe());
}

std::string value_of(const SparsePattern& pattern, const SparseParameter& parameter) {
    return std::visit([&](auto member) { return std::to_string(pattern.*member); }, parameter.member);
}

// What the type does not look at must be as it is by itself; "none" is a switch beside settings that stay.
void check_needless(SparsePattern pattern, const SparseTypeRow& row) {
    if (!row.predicts()) return;
    if (pattern.block_size_kv == pattern.block_size) pattern.block_size_kv = 0;
    for (const SparseParameter& parameter : sparse_parameters()) {
        const bool given = std::visit([&](auto member) { return pattern.*member != SparsePattern().*member; },
                                      parameter.member);
        if (!given || row.looks_at(parameter.name)) continue;
        const auto reads = [&](const SparseTypeRow& type) {
            return type.predicts() && type.looks_at(parameter.name);
        };
        fail(std::string(parameter.name) + " goes with " + types_that(reads) + ", got " +
             std::string(row.name));
    }
}

void check_pattern(const SparsePattern& pattern, const SparseTypeRow& row) {
    for (const SparseParameter& parameter : sparse_parameters()) {
        if (!parameter.fits(pattern))
            fail(std::string(parameter.name) + " must be " + std::string(parameter.range) + ", got " +
                 value_of(pattern, parameter) +
                 (parameter.name == "sparsity" ? "; 0.8 skips 80 % of the blocks" : ""));
    }
    if (pattern.block_size % row.block_step != 0)
        fail(std::string(row.name) + " needs a block_size that is a multiple of " +
             std::to_string(row.block_step) + ", got " + std::to_string(pattern.block_size));
    const bool own = pattern.block_size_kv != 0 && pattern.block_size_kv != pattern.block_size;
    if (own && !row.own_key_blocks)
        fail(std::string(row.name) + " has one block size for queries and keys, got block_size " +
             std::to_string(pattern.block_size) + " and block_size_kv " +
             std::to_string(pattern.block_size_kv) + "; " +
             types_that([](const SparseTypeRow& type) { return type.own_key_blocks; }) + " may have two");
    check_needless(pattern, row);
}

bool is_rotated(const AttentionOptions& how) {
    return how.q_rotation.data != nullptr || how.k_rotation.data != nullptr;
}

// What holds for every plan.
void check_options(const AttentionOptions& how) {
    if (!std::isfinite(how.scale)) fail("scale must be finite, got " + std::to_string(how.scale));
    if (how.mask != nullptr) fail("the options must have no mask: the plan has one");
    if (how.format != AttentionFormat::none && how.causal) fail("is_causal goes with precision none");
    if (how.format == AttentionFormat::none && is_rotated(how))
        fail("q_rotation and k_rotation go with precision fp8 and mxfp4");
}

// And for options that are chosen by a precision.
void check_options(const AttentionOptions& how, const SparseTypeRow& row, bool centroids) {
    if (how.causal && !row.causal)
        fail(std::string(row.name) + " is for video, where no token comes later; is_causal goes with " +
             types_that([](const SparseTypeRow& type) { return type.causal; }));
    if (!row.computes_in(how.format)) {
        sparse_format_from(to_string(how.format));  // one that some type has
        fail("precision fp8, mix and mxfp4 go with " +
             types_that([&](const SparseTypeRow& type) { return type.computes_in(how.format); }) + ", got " +
             std::string(row.name));
    }
    check_options(how);
    if (how.causal && centroids) fail("centroids do not go with is_causal");
    if (!rotates_sparse_calls(how.format) && is_rotated(how))
        fail("q_rotation and k_rotation go with precision fp8 and mxfp4");
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

VideoSpan one_video(const VideoLayout& video, const LatentShape& latent, std::int64_t tokens,
                    const std::string& array) {
    check_latent(latent);
    if (!holds(latent, tokens - video.txt_len))
        fail("the sequence must hold txt_len + latent_shape tokens: " + std::to_string(video.txt_len) +
             " + " + describe(latent) + ", got " + std::to_string(tokens) + " (" + array +
             "); the latent shape counts tokens, not pixels");
    return {video.txt_first ? video.txt_len : 0, latent};
}

void check_spans(const VideoLayout& video, const SparseTypeRow& row, std::int64_t q_tokens,
                 std::int64_t k_tokens) {
    if (video.latent.frames != 0 || video.latent_k.frames != 0 || video.txt_len != 0)
        fail("spans stand instead of latent_shape and txt_len; give one of them");
    if (q_tokens != k_tokens)
        fail("spans are the same for q and k, which must have one length, got " + std::to_string(q_tokens) +
             " and " + std::to_string(k_tokens));
    if (row.videos == Videos::one && video.spans.size() > 1)
        fail(std::string(row.name) + " knows one video, got " + std::to_string(video.spans.size()) +
             " spans; " +
             types_that([](const SparseTypeRow& type) { return type.videos == Videos::several; }) +
             " take several");
    std::int64_t end = 0;
    for (const auto& [start, latent] : video.spans) {
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
VideoSpan no_video(const VideoLayout& video, const SparseTypeRow& row, std::int64_t tokens) {
    if (row.videos == Videos::ignored) return {0, {1, 1, tokens}};
    if (video.txt_len >= tokens)
        fail("txt_len must be less than the sequence, got " + std::to_string(video.txt_len) + " of " +
             std::to_string(tokens));
    return {video.txt_first ? video.txt_len : 0, {1, 1, tokens - video.txt_len}};
}

void check_given(const SparseProblem& problem) {
    const std::vector<std::string>& types = problem.options.head_types;
    if (problem.options.mask.data != nullptr && !problem.row.takes_mask)
        fail(std::string(problem.row.name) + " makes its own mask per kind of head; a mask goes with " +
             types_that([](const SparseTypeRow& type) { return type.takes_mask; }));
    if (problem.pattern.by_error && problem.row.recognises() && types.empty()) {
        if (problem.options.v.data == nullptr) fail("by_error needs the values: SparsePlanOptions::v");
        check_view("v", problem.options.v, problem.q);
        if (problem.options.v.shape != problem.k.shape)
            fail("v must have the shape of k " + problem.k.describe() + ", got v " +
                 problem.options.v.describe());
    }
    if (types.empty()) return;
    if (!problem.row.recognises())
        fail("head_types pin the heads of " +
             types_that([](const SparseTypeRow& type) { return type.recognises(); }) + ", got " +
             std::string(problem.row.name));
    const std::int64_t batch = problem.q.dim(0), heads = problem.heads();
    const auto given = static_cast<std::int64_t>(types.size());
    if (given != heads && given != batch * heads)
        fail("head_types must name " + std::to_string(heads) + " heads, got " + std::to_string(given));
    for (const std::string& type : types) {
        if (problem.row.head_pattern(type) == nullptr)
            fail("head_types must be " + heads_of(problem.row) + ", got " + type);
    }
}

// Kernels read and write at the tokens of an order.
void check_order(const TokenOrder& order, std::int64_t tokens, const std::string& name) {
    if (static_cast<std::int64_t>(order.size()) != tokens)
        fail("the plan orders " + std::to_string(order.size()) + " tokens of " + name + ", which has " +
             std::to_string(tokens));
    const auto outside = [&](std::int32_t token) { return token < 0 || token >= tokens; };
    if (const auto found = std::find_if(order.begin(), order.end(), outside); found != order.end())
        fail("the plan's order names token " + std::to_string(*found) + " of " + name + ", which has " +
             std::to_string(tokens));
}

void check_orders(const SparsePlan& plan, std::int64_t q_tokens, std::int64_t k_tokens) {
    if (plan.orders.empty()) return;
    if (plan.order_of.size() != plan.heads.size())
        fail("the plan must have an order per head, got " + std::to_string(plan.order_of.size()) + " of " +
             std::to_string(plan.heads.size()));
    for (const std::size_t index : plan.order_of) {
        if (index >= plan.orders.size())
            fail("the plan has " + std::to_string(plan.orders.size()) + " orders, a head has number " +
                 std::to_string(index));
    }
    for (const TokenLayout& order : plan.orders) {
        check_order(order.q, q_tokens, "q");
        check_order(order.k, k_tokens, "k");
    }
}

}  // namespace

void check_settings(const SparsePattern& pattern, const AttentionOptions& options) {
    const SparseTypeRow& row = sparse_type_row(pattern.type);
    check_pattern(pattern, row);
    check_options(options, row, pattern.centroids);
}

SparseSides checked_sides(const SparseProblem& problem) {
    const auto& [q, k, pattern, video, options, row] = problem;
    check_q_and_k(q, k, problem.layout());
    check_settings(pattern, options.attention);
    if (video.txt_len < 0) fail("txt_len must not be negative, got " + std::to_string(video.txt_len));
    check_given(problem);
    const std::size_t token_axis = problem.layout() == AttentionLayout::bnsd ? 2 : 1;
    const std::int64_t q_tokens = q.dim(token_axis), k_tokens = k.dim(token_axis);
    if (q_tokens != k_tokens && !row.lengths_differ)
        fail(std::string(row.name) + " needs q and k of one length, got " + std::to_string(q_tokens) +
             " and " + std::to_string(k_tokens));
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    if (q_tokens > kMost || k_tokens > kMost) fail("at most 2147483647 tokens, got q " + q.describe());
    const std::int64_t block_kv = pattern.block_size_kv == 0 ? pattern.block_size : pattern.block_size_kv;
    const bool sink = pattern.protect_first_frame && row.needs_video();
    SparseSides sides = {{{}, q_tokens, pattern.block_size, pattern.sparsity, sink},
                         {{}, k_tokens, block_kv, pattern.sparsity, sink}};
    if (!video.spans.empty() && row.videos != Videos::ignored) {
        check_spans(video, row, q_tokens, k_tokens);
        sides.q.videos = sides.k.videos = video.spans;
    } else if (row.needs_video()) {
        const LatentShape& of_k = video.latent_k.frames != 0 ? video.latent_k : video.latent;
        if (!row.lengths_differ && of_k != video.latent)
            fail(std::string(row.name) + " needs one latent shape for q and k, got " +
                 describe(video.latent) + " and " + describe(of_k));
        sides.q.videos = {one_video(video, video.latent, q_tokens, "q " + q.describe())};
        sides.k.videos = {one_video(video, of_k, k_tokens, "k " + k.describe())};
    } else {
        sides.q.videos = {no_video(video, row, q_tokens)};
        sides.k.videos = {no_video(video, row, k_tokens)};
    }
    return sides;
}

void check_arrays(const AttentionArrays& arrays, AttentionLayout layout) {
    const auto& [q, k, v, o] = arrays;
    check_q_and_k(q, k, layout);
    check_view("v", v, q);
    check_view("o", o, q);
    if (v.shape != k.shape) fail("v must have the shape of k " + k.describe() + ", got v " + v.describe());
    if (o.shape != q.shape) fail("o must have the shape of q " + q.describe() + ", got o " + o.describe());
}

void check_plan(const AttentionArrays& arrays, const SparsePlan& plan, const AttentionOptions& options) {
    check_options(options);
    const HeadRows q(arrays.q, options.layout), k(arrays.k, options.layout);
    if (static_cast<std::int64_t>(plan.heads.size()) != q.maps())
        fail("the plan is of " + std::to_string(plan.heads.size()) + " heads, got q " + arrays.q.describe());
    const bool sparse = plan.dense_because.empty();
    if (plan.on_device != nullptr && plan.on_device->facts->tables->device != arrays.q.device)
        fail("the plan lies on " + plan.on_device->facts->tables->device.describe() + ", q on " +
             arrays.q.device.describe() + "; on_host() gives a plan for every device");
    const BlockMask& sizes = plan.on_device != nullptr ? plan.on_device->sizes : plan.mask;
    if (sparse && (sizes.q_len != q.tokens || sizes.k_len != k.tokens))
        fail("the plan is of " + std::to_string(sizes.q_len) + " queries and " + std::to_string(sizes.k_len) +
             " keys, got q " + arrays.q.describe() + " and k " + arrays.k.describe());
    check_orders(plan, q.tokens, k.tokens);
    const bool ordered =
        !plan.orders.empty() || (plan.on_device != nullptr && plan.on_device->q_order.defined());
    if (options.causal && ordered) fail("is_causal goes with plans that leave the tokens as they lie");
}

}  // namespace aerogel
