// attention() in other formats than none: int8 goes to the kernels as it is; every other format, and every
// rotation, works on float copies.
#include "aerogel/attention.h"

#include <cmath>
#include <string>

#include "aerogel/error.h"
#include "base/thread_pool.h"
#include "kernels/quantized_attention.h"
#include "ops/attention_rounding.h"
#include "ops/attention_scales.h"
#include "ops/dispatch.h"
#include "ops/grouped_heads.h"
#include "ops/token_orders.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

using Options = AttentionOptions;

bool given(const TensorView& matrix) {
    return matrix.data != nullptr;
}

AttentionOptions float_options(const Options& options) {
    return {.layout = options.layout, .mask = options.mask, .scale = options.scale};
}

void check_rotation(const char* name, const TensorView& matrix, const AttentionViews& views) {
    if (!given(matrix)) return;
    const std::int64_t d = views.q.shape[3];
    const bool fits = matrix.shape == Shape{d, d} && (matrix.strides.empty() || matrix.strides.size() == 2) &&
                      (matrix.dtype == DType::f32 || matrix.dtype == DType::bf16) &&
                      matrix.device == Device::cpu;
    if (!fits)
        fail_attention(std::string(name) + " must be f32 or bf16 [" + std::to_string(d) + "," +
                           std::to_string(d) + "] on the CPU, got " + matrix.describe(),
                       views);
}

void check_options(const Options& options, const AttentionViews& views) {
    check_rotation("q_rotation", options.q_rotation, views);
    check_rotation("k_rotation", options.k_rotation, views);
    if (given(options.q_rotation) != given(options.k_rotation))
        fail_attention("q_rotation and k_rotation must be given together", views);
    if (options.q_tokens < 0 || options.k_tokens < 0)
        fail_attention("q_tokens and k_tokens must not be negative, got " + std::to_string(options.q_tokens) +
                           " and " + std::to_string(options.k_tokens),
                       views);
    const bool is_int8 = options.format == AttentionFormat::int8;
    if (options.scales != nullptr && !is_int8) fail_attention("scales are for the format int8 only", views);
    if ((options.q_tokens != 0 || options.k_tokens != 0) &&
        (options.scales != nullptr || options.format == AttentionFormat::mxfp8 ||
         options.format == AttentionFormat::mxfp4))
        fail_attention("q_tokens and k_tokens are for scales found in the data, of int8, fp8 and mix", views);
}

std::int64_t value_or(std::int64_t value, std::int64_t fallback) {
    return value == 0 ? fallback : value;
}

void int8_attention(const AttentionProblem& problem, const AttentionViews& views, const Options& options,
                    const TokenOrders& orders) {
    const QuantizedAttentionKernel& kernel =
        choose("quantized_attention", views.q.device, &Machine::quantized_attention, problem);
    QuantizedAttentionArgs args;
    args.q = views.q.data;
    args.k = views.k.data;
    args.v = views.v.data;
    args.o = views.o.data;
    args.q_strides = ordered_strides(views.q, options.layout, orders.q);
    args.k_strides = ordered_strides(views.k, options.layout, orders.k);
    args.v_strides = ordered_strides(views.v, options.layout, orders.k);
    args.o_strides = ordered_strides(views.o, options.layout, orders.q);
    args.scale =
        options.scale > 0.0F ? options.scale : 1.0F / std::sqrt(static_cast<float>(problem.head_dim));
    args.mask = options.mask;
    const Int8Blocks blocks = {value_or(options.q_tokens, 1), value_or(options.k_tokens, 1),
                               options.smooth_k};
    run_operation([&] {
        const Int8Scales scales = options.scales != nullptr
                                      ? static_scales(kernel, problem, args, *options.scales)
                                      : dynamic_scales(kernel, problem, args, blocks);
        scales.fill(args);
        args.workspace = workspace(kernel.workspace_bytes(problem));
        kernel.run(problem, args);
    });
}

/// Rounds the copies to what the format holds. int8 is left to its kernels.
void round_copies(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options) {
    if (options.format == AttentionFormat::int8) return;
    if (options.smooth_k) subtract_means(k, options.layout);
    if (options.format == AttentionFormat::mix) {
        round_int8(q, options.layout, value_or(options.q_tokens, 64));
        round_int8(k, options.layout, value_or(options.k_tokens, 64));
        round_fp8_channels(v, options.layout);
        return;
    }
    if (options.format == AttentionFormat::fp8) {
        round_fp8(q, options.layout, value_or(options.q_tokens, 128));
        round_fp8(k, options.layout, value_or(options.k_tokens, 256));
        round_fp8(v, options.layout, value_or(options.k_tokens, 256));
        return;
    }
    const MxElement element = options.format == AttentionFormat::mxfp8 ? MxElement::e4m3 : MxElement::e2m1;
    round_mx(q, options.layout, element, MxAxis::channels);
    round_mx(k, options.layout, element, MxAxis::channels);
    round_mx(v, options.layout, element, MxAxis::tokens);
}

void attention_on_copies(AttentionProblem problem, const AttentionViews& views, const Options& options,
                         const TokenOrders& orders) {
    Tensor q = float_copy({views.q, options.layout, orders.q});
    Tensor k = float_copy({views.k, options.layout, orders.k});
    const Tensor v = float_copy({views.v, options.layout, orders.k});
    if (given(options.q_rotation)) {
        if (q.count() != 0) q = rotated(q, options.q_rotation);
        if (k.count() != 0) k = rotated(k, options.k_rotation);
    }
    round_copies(q, k, v, options);
    const Tensor o(DType::f32, views.o.shape);
    if (options.format == AttentionFormat::int8) {
        problem.dtype = DType::f32;
        int8_attention(problem, {views.op, q, k, v, o}, options, {});
    } else {
        attention(q, k, v, o, float_options(options));
    }
    write_back(o, {views.o, options.layout, orders.q});
}

/// Values n, n + group ... of one per head; others than f32 are left to the checks.
Tensor every_group(const Tensor& values, std::int64_t n, std::int64_t group) {
    if (!values.defined() || values.dtype() != DType::f32 || values.count() % group != 0) return values;
    const Tensor member(DType::f32, {values.count() / group});
    for (std::int64_t i = 0; i < member.count(); ++i)
        member.as<float>()[i] = values.as<float>()[n + i * group];
    return member;
}

/// Calibrated scales of the n-th head of every group of q; those of k and v count their own heads.
AttentionScales every_group(const AttentionScales& scales, std::int64_t n, std::int64_t group) {
    AttentionScales member = scales;
    member.q_scale = every_group(scales.q_scale, n, group);
    member.q_offset = every_group(scales.q_offset, n, group);
    return member;
}

/// Tokens first .. first + count - 1 of a [tokens, heads, head_dim] view, as one batch.
TensorView sequence(const TensorView& view, std::int64_t first, std::int64_t count) {
    const Shape strides = strides_of(view);
    auto* start = static_cast<std::byte*>(view.data);
    if (start != nullptr) start += static_cast<std::size_t>(first * strides[0]) * size_of(view.dtype);
    return {view.dtype,
            {1, count, view.shape[1], view.shape[2]},
            start,
            {count * strides[0], strides[0], strides[1], strides[2]},
            view.device};
}

}  // namespace

void quantized_attention(const AttentionViews& views, const AttentionOptions& options,
                         const TokenOrders& orders) {
    const auto& [op, q, k, v, o] = views;
    if (options.causal) fail_attention("causal goes with format none", views);
    const AttentionProblem problem = check_attention(views, options);
    check_options(options, views);
    if (o.count() == 0) return;
    if (has_grouped_heads(q, k, options.layout)) {
        std::int64_t index = 0;
        const std::int64_t group = problem.heads / k.dim(options.layout == AttentionLayout::bnsd ? 1 : 2);
        for_each_group_member(views, float_options(options), orders, [&](const GroupMember& member) {
            Options of_member = options;
            AttentionScales scales;
            if (options.scales != nullptr) {
                scales = every_group(*options.scales, index++, group);
                of_member.scales = &scales;
            }
            of_member.mask = member.mask;
            quantized_attention({views.op, member.q, views.k, views.v, member.o}, of_member, member.orders);
        });
        return;
    }
    if (options.format == AttentionFormat::int8 && !given(options.q_rotation)) {
        int8_attention(problem, views, options, orders);
    } else {
        attention_on_copies(problem, views, options, orders);
    }
}

void attention_packed(const PackedSequences& sequences, const AttentionOptions& options) {
    const auto& [q, k, v, o, seq_len] = sequences;
    const bool is_float = options.format == AttentionFormat::none;
    const AttentionViews views = {is_float ? "attention_packed" : "quantized_attention_packed", q, k, v, o};
    if (options.mask != nullptr) fail_attention("packed sequences take no mask", views);
    for (const TensorView* view : {&q, &k, &v, &o}) {
        const bool matrix = view->shape.size() == 3 && q.shape.size() == 3 &&
                            (view->strides.empty() || view->strides.size() == 3);
        const bool grouped = matrix && view != &o && k.shape == v.shape && view->shape[1] > 0 &&
                             q.shape[1] % view->shape[1] == 0;
        if (!matrix || view->shape[0] != q.shape[0] || view->shape[2] != q.shape[2] ||
            (view->shape[1] != q.shape[1] && !grouped))
            fail_attention("q, k, v and o must have one shape [tokens, heads, head_dim]", views);
    }
    std::int64_t sum = 0;
    for (const std::int64_t count : seq_len) {
        if (count < 0 || count > q.shape[0] - sum)
            fail_attention("the lengths of the sequences must not be negative or exceed the tokens, got " +
                               std::to_string(count) + " after " + std::to_string(sum),
                           views);
        sum += count;
    }
    if (sum != q.shape[0])
        fail_attention("the lengths of the sequences must sum to " + std::to_string(q.shape[0]) + ", got " +
                           std::to_string(sum),
                       views);
    AttentionOptions one = options;
    one.layout = AttentionLayout::bsnd;
    std::int64_t first = 0;
    for (const std::int64_t count : seq_len) {
        attention(sequence(q, first, count), sequence(k, first, count), sequence(v, first, count),
                  sequence(o, first, count), one);
        first += count;
    }
}

}  // namespace aerogel
