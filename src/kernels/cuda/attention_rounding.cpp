// The rounding formats of attention on CUDA: copies of q, k and v in f32, some heads at a time, rounded in
// place, then float attention in pairs of bf16.
#include "kernels/attention_rounding.h"

#include <string>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/attention_rounding_args.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {

extern const Image kAttentionRoundingImage;

namespace {

const Kernel kRoundCopy = {kAttentionRoundingImage, "aerogel_round_copy"},
             kRoundMeans = {kAttentionRoundingImage, "aerogel_round_means"},
             kRoundBlocks = {kAttentionRoundingImage, "aerogel_round_blocks"},
             kRoundChannels = {kAttentionRoundingImage, "aerogel_round_channels"},
             kRoundRows = {kAttentionRoundingImage, "aerogel_round_rows"};

constexpr unsigned kRowsOfRounding = 8, kRoundingThreads = 256;
constexpr std::int64_t kMxTokens = 32;

std::string rounds_f32_and_bf16(const AttentionProblem& problem) {
    if (problem.dtype == DType::f16) return "takes f32 and bf16";
    return problem.biased ? takes_no_bias(problem) : takes_no_centroids(problem);
}

/// The float problem of so many maps of k and v.
AttentionProblem part_of(const AttentionProblem& problem, std::int64_t maps) {
    AttentionProblem part = problem;
    part.batch = 1;
    part.heads = maps * problem.group();
    part.kv_heads = maps;
    part.dtype = DType::f32;
    part.format = AttentionFormat::none;
    return part;
}

/// Floats of the copies and the means of one map of k and v, and of the maps of q that meet it.
std::int64_t copied_floats_of(const AttentionProblem& problem) {
    return (problem.group() * problem.q_len + 2 * problem.k_len + 1) * problem.head_dim;
}

std::size_t bytes_of_maps(const AttentionProblem& problem, std::int64_t maps) {
    const auto copies =
        static_cast<std::size_t>(parts_of(maps * copied_floats_of(problem), 64) * 64) * sizeof(float);
    return copies + split_workspace(part_of(problem, maps));
}

std::int64_t rounded_maps_at_once(const AttentionProblem& problem) {
    return maps_at_once(problem, bytes_of_maps(problem, 1));
}

std::size_t rounded_workspace(const AttentionProblem& problem) {
    return bytes_of_maps(problem, rounded_maps_at_once(problem));
}

/// Copies of one of q, k and v.
struct DeviceRows {
    float* data;
    std::int64_t maps, tokens, head_dim;
};

RoundArgs round_args(const DeviceRows& x, NumberGrid grid) {
    RoundArgs args;
    args.data = x.data;
    args.grid = grid;
    args.head_dim = static_cast<std::int32_t>(x.head_dim);
    args.tokens = x.tokens;
    args.rows = x.maps * x.tokens;
    return args;
}

unsigned rounding_blocks(std::int64_t count) {
    return static_cast<unsigned>(count);
}

/// A scale per block of so many tokens and channels.
void round_in_blocks(const DeviceRows& x, NumberGrid grid, std::int64_t tokens, std::int64_t channels,
                     void* stream) {
    RoundArgs args = round_args(x, grid);
    args.block = std::clamp<std::int64_t>(tokens, 1, std::max<std::int64_t>(x.tokens, 1));
    args.blocks = parts_of(x.tokens, args.block);
    args.channels = static_cast<std::int32_t>(std::min(channels, x.head_dim));
    args.parts = static_cast<std::int32_t>(parts_of(x.head_dim, args.channels));
    launch(
        kRoundBlocks,
        {{rounding_blocks(x.maps * args.blocks * args.parts)}, {kRoundingThreads}, kRoundingThreads / 32 * 4},
        stream, args);
}

/// A scale per channel and block of tokens: E4M3 over all of them, or MX over 32.
void round_in_channels(const DeviceRows& x, RoundArgs args, std::int64_t tokens, void* stream) {
    args.block = std::max<std::int64_t>(tokens, 1);
    args.blocks = parts_of(x.tokens, args.block);
    const auto threads = static_cast<unsigned>(parts_of(x.head_dim, 32) * 32);
    launch(kRoundChannels, {{rounding_blocks(x.maps * args.blocks)}, {threads}}, stream, args);
}

void round_mx_rows(const DeviceRows& x, const AttentionProblem& problem, const AttentionCall& call,
                   bool of_tokens) {
    RoundArgs args =
        round_args(x, problem.format == AttentionFormat::mxfp8 ? NumberGrid::e4m3 : NumberGrid::e2m1);
    args.powers = 1;
    args.algorithm = call.mxfp4_scale.algorithm;
    args.dst_type_max = call.mxfp4_scale.dst_type_max;
    if (of_tokens) {
        round_in_channels(x, args, kMxTokens, call.stream);
        return;
    }
    launch(kRoundRows, {{rounding_blocks(parts_of(args.rows, kRowsOfRounding))}, {kRowsOfRounding * 32}},
           call.stream, args);
}

void round_all(const AttentionProblem& problem, const AttentionCall& call, const DeviceRows& q,
               const DeviceRows& k, const DeviceRows& v) {
    const bool mix = problem.format == AttentionFormat::mix;
    if (mix || problem.format == AttentionFormat::int8_qk) {
        round_in_blocks(q, NumberGrid::whole, call.q_tokens, q.head_dim, call.stream);
        round_in_blocks(k, NumberGrid::whole, call.k_tokens, k.head_dim, call.stream);
        if (mix) round_in_channels(v, round_args(v, NumberGrid::e4m3), v.tokens, call.stream);
    } else if (problem.format == AttentionFormat::fp8) {
        round_in_blocks(q, NumberGrid::e4m3, call.q_tokens, q.head_dim, call.stream);
        round_in_blocks(k, NumberGrid::e4m3, call.k_tokens, k.head_dim, call.stream);
        round_in_blocks(v, NumberGrid::e4m3, call.v_tokens, call.v_channels, call.stream);
    } else {
        round_mx_rows(q, problem, call, false);
        round_mx_rows(k, problem, call, false);
        round_mx_rows(v, problem, call, true);
    }
}

void copy_to(const DeviceRows& to, const AttentionProblem& problem, const AttentionRows& from,
             const float* mean, void* stream) {
    RoundCopyArgs args;
    args.from = from;
    args.elements = problem.dtype == DType::f32 ? Elements::f32 : Elements::bf16;
    args.head_dim = static_cast<std::int32_t>(to.head_dim);
    args.tokens = to.tokens;
    args.rows = to.maps * to.tokens;
    args.mean = mean;
    args.to = to.data;
    launch(kRoundCopy, {{rounding_blocks(parts_of(args.rows, kRowsOfRounding))}, {kRowsOfRounding * 32}},
           stream, args);
}

void find_plain_means(const DeviceRows& of, const AttentionProblem& problem, const AttentionRows& from,
                      float* to, void* stream) {
    RoundMeansArgs args;
    args.from = from;
    args.elements = problem.dtype == DType::f32 ? Elements::f32 : Elements::bf16;
    args.head_dim = static_cast<std::int32_t>(of.head_dim);
    args.as_int8 = problem.format == AttentionFormat::int8_qk ? 1 : 0;
    args.tokens = of.tokens;
    args.to = to;
    const auto threads = static_cast<unsigned>(parts_of(of.head_dim, 32) * 32);
    if (of.tokens > 0) launch(kRoundMeans, {{rounding_blocks(of.maps)}, {threads}}, stream, args);
}

/// Maps first .. first + maps - 1 of k and v, and of q those that meet them.
void attend_rounded_maps(const AttentionProblem& problem, const AttentionCall& call, std::int64_t first,
                         std::int64_t maps) {
    const std::int64_t d = problem.head_dim, group = problem.group();
    auto* const floats = reinterpret_cast<float*>(call.workspace);
    const DeviceRows q = {floats, maps * group, problem.q_len, d};
    const DeviceRows k = {q.data + q.maps * q.tokens * d, maps, problem.k_len, d};
    const DeviceRows v = {k.data + k.maps * k.tokens * d, maps, problem.k_len, d};
    float* const means = v.data + v.maps * v.tokens * d;
    const AttentionRows keys = rows_of(call.k, call.k_strides, problem.kv_heads, first);
    if (call.smooth_k) find_plain_means(k, problem, keys, means, call.stream);
    copy_to(q, problem, rows_of(call.q, call.q_strides, problem.heads, first * group), nullptr, call.stream);
    copy_to(k, problem, keys, call.smooth_k ? means : nullptr, call.stream);
    copy_to(v, problem, rows_of(call.v, call.v_strides, problem.kv_heads, first), nullptr, call.stream);
    round_all(problem, call, q, k, v);
    AttentionCall inner;
    inner.q = q.data;
    inner.k = k.data;
    inner.v = v.data;
    inner.q_strides = {0, problem.q_len * d, d};
    inner.k_strides = inner.v_strides = {0, problem.k_len * d, d};
    inner.scale = call.scale;
    if (problem.masked) inner.mask = call.mask.from(first * group * problem.q_blocks());
    if (problem.wants_lse) inner.lse = call.lse + first * group * problem.q_len;
    if (problem.hides_keys) inner.key_words = call.key_words + first / problem.kv_heads * seen_words(problem);
    inner.stream = call.stream;
    inner.workspace = call.workspace + parts_of(maps * copied_floats_of(problem), 64) * 64 * 4;
    attend_split(part_of(problem, maps), inner, rows_of(call.o, call.o_strides, problem.heads, first * group),
                 problem.dtype == DType::f32 ? 4 : 2);
}

void attend_rounded_formats(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const std::int64_t most = rounded_maps_at_once(problem);
    for (std::int64_t first = 0, count; first < problem.kv_maps(); first += count) {
        count = std::min(most, problem.kv_maps() - first);
        if (problem.hides_keys) count = std::min(count, problem.kv_heads - first % problem.kv_heads);
        attend_rounded_maps(problem, call, first, count);
    }
}

}  // namespace

constexpr AttentionKernel kRoundedAttention = {.name = "cuda.sm80.rounded_attention",
                                               .formats = kRoundingFormats,
                                               .why_not = rounds_f32_and_bf16,
                                               .workspace_bytes = and_key_words<rounded_workspace>,
                                               .run = after_key_words<attend_rounded_formats>,
                                               .product_error = 0x1p-16F};

}  // namespace aerogel::cuda
