// Attention, from its arguments to a kernel: checks, rotation of q and k, choice of a kernel, the call.
#include "ops/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "aerogel/error.h"
#include "aerogel/linear.h"
#include "base/thread_pool.h"
#include "base/timed.h"
#include "core/views.h"
#include "ops/device_tables.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/int8_scales.h"
#include "ops/workspace.h"

namespace aerogel {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

std::string place_of(Device device) {
    return device == Device::cpu ? "the CPU" : device.describe();
}

void check_view(const char* name, const TensorView& view, const AttentionViews& views) {
    const std::string prefix = std::string(name) + " must ";
    if (view.device != views.q.device)
        fail_attention(prefix + "be on " + place_of(views.q.device) + " as q", views);
    if (view.shape.size() != 4) fail_attention(prefix + "have 4 axes", views);
    if (view.dtype != views.q.dtype) fail_attention(prefix + "have the dtype of q", views);
    if (!view.strides.empty() && view.strides.size() != 4) fail_attention(prefix + "have 4 strides", views);
    if (view.shape[3] > 1 && strides_of(view)[3] != 1)
        fail_attention(prefix + "be contiguous in its last axis", views);
    if (view.count() != 0 && view.data == nullptr) fail_attention(prefix + "have data", views);
}

/// [batch, heads, tokens, head_dim] of a view in either layout.
std::array<std::int64_t, 4> sizes(const TensorView& view, AttentionLayout layout) {
    const bool bnsd = layout == AttentionLayout::bnsd;
    return {view.dim(0), view.dim(bnsd ? 1 : 2), view.dim(bnsd ? 2 : 1), view.dim(3)};
}

AttentionProblem check_shapes(const AttentionViews& views, AttentionLayout layout) {
    const bool takes_f16 = views.q.device.kind == DeviceKind::cuda;
    if (views.q.dtype != DType::f32 && views.q.dtype != DType::bf16 &&
        !(takes_f16 && views.q.dtype == DType::f16))
        fail_attention(takes_f16 ? "q must be f32, bf16 or f16" : "q must be f32 or bf16", views);
    check_view("q", views.q, views);
    check_view("k", views.k, views);
    check_view("v", views.v, views);
    check_view("o", views.o, views);
    const auto q = sizes(views.q, layout);
    const auto k = sizes(views.k, layout);
    const bool heads_fit = k[1] == q[1] || (k[1] > 0 && q[1] % k[1] == 0);
    if (k[0] != q[0] || !heads_fit || k[3] != q[3])
        fail_attention("k must have the batch and head_dim of q, and its heads or a divisor of them", views);
    if (sizes(views.v, layout) != k) fail_attention("v must have the shape of k", views);
    if (sizes(views.o, layout) != q) fail_attention("o must have the shape of q", views);
    if (q[3] < 1 || q[3] > kMaxHeadDim)
        fail_attention("head_dim must be 1..256, got " + std::to_string(q[3]), views);
    for (const TensorView* read : {&views.q, &views.k, &views.v})
        if (overlap(*read, views.o)) fail_attention("o must not share memory with q, k or v", views);
    AttentionProblem problem;
    problem.batch = q[0];
    problem.heads = q[1];
    problem.kv_heads = k[1];
    problem.q_len = q[2];
    problem.k_len = k[2];
    problem.head_dim = q[3];
    problem.dtype = views.q.dtype;
    return problem;
}

void check_mask(const BlockMask& mask, const AttentionProblem& problem, std::string_view op) {
    const auto text = [](std::int64_t batch, std::int64_t heads, std::int64_t q_len, std::int64_t k_len) {
        return "batch=" + std::to_string(batch) + " heads=" + std::to_string(heads) +
               " q_len=" + std::to_string(q_len) + " k_len=" + std::to_string(k_len);
    };
    const std::string wanted = text(problem.batch, problem.heads, problem.q_len, problem.k_len);
    const std::string got = text(mask.batch, mask.heads, mask.q_len, mask.k_len);
    if (wanted != got)
        throw InvalidArgument("[" + std::string(op) + "] the mask must be for " + wanted + ", got one for " +
                              got);
    mask.check();
}

bool given(const TensorView& matrix) {
    return matrix.data != nullptr;
}

void check_rotation(const char* name, const TensorView& matrix, const AttentionViews& views) {
    if (!given(matrix)) return;
    const std::int64_t d = views.q.shape[3];
    const bool fits = matrix.shape == Shape{d, d} && (matrix.strides.empty() || matrix.strides.size() == 2) &&
                      (matrix.dtype == DType::f32 || matrix.dtype == DType::bf16) &&
                      matrix.device == views.q.device;
    if (!fits)
        fail_attention(std::string(name) + " must be f32 or bf16 [" + std::to_string(d) + "," +
                           std::to_string(d) + "] on " + place_of(views.q.device) + ", got " +
                           matrix.describe(),
                       views);
}

/// Where there is one.
void check_bias(const TensorView& bias, const AttentionViews& views, const AttentionProblem& problem) {
    if (!given(bias)) return;
    if (problem.q_len == 0 || problem.k_len == 0) return;
    const Shape wanted = {problem.heads, problem.distances()};
    if (bias.dtype != DType::f32 || bias.shape != wanted || !bias.contiguous() ||
        bias.device != views.q.device)
        fail_attention("bias must be contiguous f32 " + to_string(wanted) + " on " +
                           place_of(views.q.device) + ", got " + bias.describe(),
                       views);
}

/// Where there is one.
void check_key_mask(const TensorView& mask, const AttentionViews& views, const AttentionProblem& problem) {
    if (!given(mask)) return;
    if (views.q.device.kind != DeviceKind::cuda)
        throw Unsupported("[" + std::string(views.op) +
                          "] a mask of keys is for CUDA; give the keys that are seen instead");
    const Shape wanted = {problem.batch, problem.k_len};
    const bool bytes = mask.dtype == DType::boolean || mask.dtype == DType::u8 || mask.dtype == DType::i8;
    if (!bytes || mask.shape != wanted || !mask.contiguous() || mask.device != views.q.device)
        fail_attention("key_mask must be contiguous bool, u8 or i8 " + to_string(wanted) + " on " +
                           place_of(views.q.device) + ", got " + mask.describe(),
                       views);
}

/// Where there is one.
void check_lse(const AttentionOptions& options, const AttentionViews& views,
               const AttentionProblem& problem) {
    const MutableView& lse = options.lse;
    if (lse.data == nullptr) return;
    const Shape wanted = {problem.batch, problem.heads, problem.q_len};
    if (lse.dtype != DType::f32 || lse.shape != wanted || !lse.contiguous() || lse.device != views.q.device)
        fail_attention("lse must be contiguous f32 " + to_string(wanted) + " on " + place_of(views.q.device) +
                           ", got " + lse.describe(),
                       views);
    if (options.format == AttentionFormat::none) return;
    if (options.smooth_k || options.scales != nullptr)
        fail_attention("lse of a format goes with smooth_k = false and without calibrated scales", views);
}

void check_centroids(const AttentionOptions& options, const AttentionViews& views) {
    if (!options.centroids) return;
    if (options.causal) fail_attention("centroids of skipped blocks do not go with causal", views);
    if (given(options.bias)) fail_attention("centroids of skipped blocks do not go with a bias", views);
    if (options.scales != nullptr)
        fail_attention("centroids of skipped blocks do not go with calibrated scales", views);
}

/// Options of single formats.
void check_own_options(const AttentionOptions& options, const AttentionViews& views) {
    if (options.causal && options.format == AttentionFormat::int8)
        fail_attention("causal goes with format none and with formats that round, not with int8", views);
    if (options.v_tokens < 0 || options.v_channels < 0)
        fail_attention("v_tokens and v_channels must not be negative, got " +
                           std::to_string(options.v_tokens) + " and " + std::to_string(options.v_channels),
                       views);
    if ((options.v_tokens != 0 || options.v_channels != 0) && options.format != AttentionFormat::fp8)
        fail_attention("v_tokens and v_channels are for the format fp8", views);
    if (options.mxfp4_scale != Mxfp4Scale() && options.format != AttentionFormat::mxfp4)
        fail_attention("mxfp4_scale_alg is for the format mxfp4", views);
    check_mxfp4_scale(views.op, options.mxfp4_scale);
}

void check_options(const AttentionOptions& options, const AttentionViews& views,
                   const AttentionProblem& problem) {
    const AttentionFormat format = options.format;
    const bool rotates = given(options.q_rotation) || given(options.k_rotation);
    const bool blocks = options.q_tokens != 0 || options.k_tokens != 0;
    check_own_options(options, views);
    if (format == AttentionFormat::none) {
        if (rotates || blocks || options.scales != nullptr)
            fail_attention("rotations, scales, q_tokens and k_tokens go with a format", views);
        return;
    }
    if (given(options.bias)) fail_attention("a bias goes with format none", views);
    check_rotation("q_rotation", options.q_rotation, views);
    check_rotation("k_rotation", options.k_rotation, views);
    if (given(options.q_rotation) != given(options.k_rotation))
        fail_attention("q_rotation and k_rotation must be given together", views);
    if (options.q_tokens < 0 || options.k_tokens < 0)
        fail_attention("q_tokens and k_tokens must not be negative, got " + std::to_string(options.q_tokens) +
                           " and " + std::to_string(options.k_tokens),
                       views);
    if (options.scales != nullptr && format != AttentionFormat::int8)
        fail_attention("scales are for the format int8 only", views);
    if (blocks &&
        (options.scales != nullptr || format == AttentionFormat::mxfp8 || format == AttentionFormat::mxfp4))
        fail_attention(
            "q_tokens and k_tokens are for scales found in the data, of int8, fp8, mix and int8_qk", views);
    if (options.scales != nullptr) check_scales(*options.scales, problem.heads, problem.kv_heads);
}

/// A contiguous f32 copy.
Tensor float_copy(const TensorView& view, const Context& context) {
    Tensor values(DType::f32, view.shape, view.device);
    copy(view, values, context);
    return values;
}

/// x times matrix [head_dim, head_dim] (f32 or bf16), over the last axis.
Tensor times_matrix(const Tensor& x, const TensorView& matrix, const Context& context) {
    const std::int64_t d = x.dim(3);
    const Shape strides = strides_of(matrix);
    Tensor weight(DType::f32, {d, d}, x.device());  // y = x w^T
    copy(part_of(matrix, 0, {d, d}, {strides[1], strides[0]}), weight, context);
    Tensor y(DType::f32, {x.count() / d, d}, x.device());
    const auto multiply = [&] {  // which packs the matrix, too
        StepContext step;
        step.call = context;
        FloatLinear(weight, Tensor()).forward(x.reshaped({x.count() / d, d}), y, step);
    };
    run_operation(multiply, context.threads);
    return y.reshaped(x.shape());
}

/// attend(views, options) with q and k multiplied by the matrices of the options, which then have none.
template <typename Attend>
void attend_rotated(const AttentionViews& views, const AttentionOptions& options, const Attend& attend) {
    const Context& context = options.call;
    AttentionOptions rest = options;
    rest.q_rotation = rest.k_rotation = {};
    Tensor q = float_copy(views.q, context), k = float_copy(views.k, context);
    if (q.count() != 0) q = times_matrix(q, options.q_rotation, context);
    if (k.count() != 0) k = times_matrix(k, options.k_rotation, context);
    if (views.q.dtype == DType::f32) {
        attend({views.op, q, k, views.v, views.o}, rest);
        return;
    }
    const Tensor v = float_copy(views.v, context);
    Tensor o(DType::f32, views.o.shape, views.o.device);
    attend({views.op, q, k, v, o}, rest);
    copy(o, views.o, context);
}

/// The order of each map of k and v, where the maps of q that share it have the same; empty otherwise.
std::vector<const std::int32_t*> shared_orders(const std::vector<const std::int32_t*>& orders,
                                               std::int64_t group) {
    std::vector<const std::int32_t*> shared;
    for (std::size_t map = 0; map < orders.size(); ++map) {
        if (map % static_cast<std::size_t>(group) == 0) shared.push_back(orders[map]);
        if (orders[map] != shared.back()) return {};
    }
    return shared;
}

std::int64_t value_or(std::int64_t value, std::int64_t fallback) {
    return value == 0 ? fallback : value;
}

void set_blocks(const AttentionOptions& options, std::int64_t head_dim, AttentionCall& call) {
    const bool is_fp8 = options.format == AttentionFormat::fp8, mix = options.format == AttentionFormat::mix;
    call.q_tokens = value_or(options.q_tokens, is_fp8 ? 128 : mix ? 64 : 1);
    call.k_tokens = value_or(options.k_tokens, is_fp8 ? 256 : mix ? 64 : 1);
    call.v_tokens = value_or(options.v_tokens, call.k_tokens);
    call.v_channels = value_or(options.v_channels, head_dim);
    call.mxfp4_scale = options.mxfp4_scale;
    call.smooth_k = options.smooth_k;
}

AttentionCall make_call(const AttentionViews& views, const AttentionOptions& options,
                        const AttentionProblem& problem) {
    AttentionCall call;
    call.q = views.q.data;
    call.k = views.k.data;
    call.v = views.v.data;
    call.o = views.o.data;
    call.q_strides = attention_strides(views.q, options.layout);
    call.k_strides = attention_strides(views.k, options.layout);
    call.v_strides = attention_strides(views.v, options.layout);
    call.o_strides = attention_strides(views.o, options.layout);
    call.scale =
        options.scale > 0.0F ? options.scale : 1.0F / std::sqrt(static_cast<float>(problem.head_dim));
    if (problem.biased) call.bias = options.bias.as<float>();
    if (problem.wants_lse) call.lse = options.lse.as<float>();
    call.key_mask = static_cast<const std::uint8_t*>(options.key_mask.data);
    if (options.mask != nullptr) call.mask = {options.mask->row_start.data(), options.mask->columns.data()};
    set_blocks(options, problem.head_dim, call);
    return call;
}

OperationCost cost_of(const AttentionProblem& problem, const AttentionKernel& kernel, const BlockMask* mask) {
    const auto maps = static_cast<double>(problem.maps()), q = static_cast<double>(problem.q_len),
               k = static_cast<double>(problem.k_len), d = static_cast<double>(problem.head_dim);
    double pairs = maps * q * k;  // of a query and a key
    if (mask != nullptr)
        pairs = std::min(pairs, static_cast<double>(mask->columns.size()) *
                                    static_cast<double>(problem.block_q * problem.block_k));
    if (problem.causal) pairs /= 2.0;
    const bool is_float = problem.format == AttentionFormat::none;
    const double kv_maps = static_cast<double>(problem.kv_maps());
    return {.op = "attention",
            .kernel = kernel.name,
            .arithmetic = problem.format == AttentionFormat::int8    ? Arithmetic::int8
                          : is_float && problem.dtype == DType::bf16 ? Arithmetic::bf16
                                                                     : Arithmetic::f32,
            .operations = 4.0 * pairs * d,
            .bytes = 2.0 * d * (maps * q + kv_maps * k) * static_cast<double>(size_of(problem.dtype))};
}

std::size_t in_lines(std::size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/// Tokens first .. first + count - 1 of a [tokens, heads, head_dim] view, as one batch.
template <typename View>
View sequence(const View& view, std::int64_t first, std::int64_t count) {
    const Shape strides = strides_of(view);
    return part_of(view, first * strides[0], {1, count, view.shape[1], view.shape[2]},
                   {count * strides[0], strides[0], strides[1], strides[2]});
}

}  // namespace

void fail_attention(const std::string& what, const AttentionViews& views) {
    throw InvalidArgument("[" + std::string(views.op) + "] " + what + " (q " + views.q.describe() + ", k " +
                          views.k.describe() + ", v " + views.v.describe() + ", o " + views.o.describe() +
                          ")");
}

AttentionStrides attention_strides(const TensorView& view, AttentionLayout layout) {
    const Shape strides = strides_of(view);
    const bool bnsd = layout == AttentionLayout::bnsd;
    return {strides[0], strides[bnsd ? 1 : 2], strides[bnsd ? 2 : 1]};
}

AttentionProblem check_attention(const AttentionViews& views, const AttentionOptions& options) {
    AttentionProblem problem = check_shapes(views, options.layout);
    attention_format_row(options.format);  // one of them
    if (!std::isfinite(options.scale))
        throw InvalidArgument("[" + std::string(views.op) + "] the scale must be finite");
    problem.format = options.format;
    problem.causal = options.causal;
    problem.biased = given(options.bias);
    if (options.mask != nullptr) {
        check_mask(*options.mask, problem, views.op);
        problem.masked = true;
        problem.block_q = options.mask->block_q;
        problem.block_k = options.mask->block_k;
    }
    check_options(options, views, problem);
    check_bias(options.bias, views, problem);
    check_key_mask(options.key_mask, views, problem);
    problem.hides_keys = given(options.key_mask);
    check_lse(options, views, problem);
    problem.wants_lse = options.lse.data != nullptr;
    check_centroids(options, views);
    problem.centroids = options.centroids && problem.masked;
    return problem;
}

std::string_view attention_op(const AttentionOptions& options) {
    return options.format == AttentionFormat::none ? "attention" : "quantized_attention";
}

void attention(const TensorView& q, const TensorView& k, const TensorView& v, const MutableView& o,
               const AttentionOptions& options) {
    attention({attention_op(options), q, k, v, o}, options, {});
}

namespace {

/// What is left of a call once its mask and orders are set.
void run_call(const AttentionProblem& problem, const AttentionOptions& options, const AttentionViews& views,
              AttentionCall& call, DeviceTables* tables) {
    const Device device = views.q.device;
    const AttentionKernel& kernel = choose("attention", device, &Machine::attention, problem);
    call.stream = options.call.stream;
    const Timed timed(cost_of(problem, kernel, options.mask));
    const auto run = [&] {
        const bool finds = kernel.find_scales != nullptr;
        const std::size_t scales = finds ? scale_bytes(problem, options) : 0;
        const std::size_t own = in_lines(kernel.workspace_bytes(problem));
        const Workspace memory(scales + own + (tables != nullptr ? tables->bytes() : 0), device);
        if (tables != nullptr) tables->place(device, memory.data() + scales + own, call);
        if (finds) fill_scales(kernel, problem, options, {memory.data(), device}, call);
        call.workspace = memory.data() + scales;
        kernel.run(problem, call);
    };
    run_operation_on(device, run, options.call.threads);
}

[[noreturn]] void fail_orders(const AttentionViews& views) {
    fail_attention("key_mask does not go with tokens in another order", views);
}

/// Each map of q has its own order of the same keys.
void separate_keys(AttentionProblem& problem, AttentionCall& call) {
    call.k_strides.shared = call.v_strides.shared = problem.group();
    problem.kv_heads = problem.heads;
}

}  // namespace

void attention(const AttentionViews& views, const AttentionOptions& options, const TokenOrders& orders) {
    AttentionProblem problem = check_attention(views, options);
    if (views.o.count() == 0) return;
    if (given(options.q_rotation))
        return attend_rotated(views, options,
                              [&](const AttentionViews& turned, const AttentionOptions& rest) {
                                  attention(turned, rest, orders);
                              });
    AttentionCall call = make_call(views, options, problem);
    if (problem.hides_keys && !orders.k.empty()) fail_orders(views);
    std::vector<const std::int32_t*> shared = shared_orders(orders.k, problem.group());
    if (!orders.q.empty()) call.q_strides.order = call.o_strides.order = orders.q.data();
    if (!orders.k.empty()) {
        if (shared.empty()) separate_keys(problem, call);
        call.k_strides.order = call.v_strides.order = shared.empty() ? orders.k.data() : shared.data();
    }
    std::optional<DeviceTables> tables;
    if (views.q.device != Device::cpu) tables.emplace(problem, call);
    run_call(problem, options, views, call, tables ? &*tables : nullptr);
}

void attention_there(const AttentionViews& views, const AttentionOptions& options,
                     const ListsOnDevice& lists) {
    AttentionProblem problem = check_attention(views, options);
    if (views.o.count() == 0) return;
    if (given(options.q_rotation))
        return attend_rotated(views, options,
                              [&](const AttentionViews& turned, const AttentionOptions& rest) {
                                  attention_there(turned, rest, lists);
                              });
    AttentionCall call = make_call(views, options, problem);
    problem.masked = true;
    problem.block_q = lists.block_q;
    problem.block_k = lists.block_k;
    problem.centroids = options.centroids;
    call.mask = lists.rows;
    if (lists.q_order != nullptr) {
        if (problem.hides_keys) fail_orders(views);
        if (lists.orders_differ && problem.group() > 1) separate_keys(problem, call);
        call.q_strides.order = call.o_strides.order = lists.q_order;
        call.k_strides.order = call.v_strides.order = lists.k_order;
    }
    run_call(problem, options, views, call, nullptr);
}

void attention_packed(const PackedSequences& sequences, const AttentionOptions& options) {
    const auto& [q, k, v, o, seq_len] = sequences;
    const bool is_float = options.format == AttentionFormat::none;
    const AttentionViews views = {is_float ? "attention_packed" : "quantized_attention_packed", q, k, v, o};
    if (options.mask != nullptr) fail_attention("packed sequences take no mask", views);
    if (given(options.bias)) fail_attention("packed sequences take no bias", views);
    if (options.lse.data != nullptr) fail_attention("packed sequences give no lse", views);
    if (given(options.key_mask)) fail_attention("packed sequences take no mask of keys", views);
    const TensorView out = o;
    for (const TensorView* view : {&q, &k, &v, &out}) {
        const bool matrix = view->shape.size() == 3 && q.shape.size() == 3 &&
                            (view->strides.empty() || view->strides.size() == 3);
        const bool grouped = matrix && view != &out && k.shape == v.shape && view->shape[1] > 0 &&
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
