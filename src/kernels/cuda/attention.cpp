// Float attention on CUDA: bf16 and f16 read where they lie; f32 becomes pairs of bf16 first, some heads at a
// time.
#include <cstdint>
#include <string>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {

extern const Image kAttentionImage;

namespace {

/// One kernel and its sizes.
struct FloatVariant {
    Kernel kernel;
    FloatAttentionShape shape;
};

const FloatVariant kBf16Variants[] = {{{kAttentionImage, "aerogel_attention_bf16_64"}, kNarrowShape},
                                      {{kAttentionImage, "aerogel_attention_bf16_128"}, kMiddleShape},
                                      {{kAttentionImage, "aerogel_attention_bf16_256"}, kWideShape}};
const FloatVariant kF16Variants[] = {{{kAttentionImage, "aerogel_attention_f16_64"}, kNarrowShape},
                                     {{kAttentionImage, "aerogel_attention_f16_128"}, kMiddleShape},
                                     {{kAttentionImage, "aerogel_attention_f16_256"}, kWideShape}};
const FloatVariant kSplitVariants[] = {{{kAttentionImage, "aerogel_attention_split_64"}, kNarrowSplit},
                                       {{kAttentionImage, "aerogel_attention_split_128"}, kMiddleSplit},
                                       {{kAttentionImage, "aerogel_attention_split_256"}, kWideSplit}};
const Kernel kSplitRows = {kAttentionImage, "aerogel_split_rows"},
             kKeyWords = {kAttentionImage, "aerogel_key_words"};

/// The narrowest that holds so many channels.
const FloatVariant& variant_for(const FloatVariant (&variants)[3], std::int64_t head_dim) {
    return variants[head_dim <= 64 ? 0 : head_dim <= 128 ? 1 : 2];
}

/// q, k, v and o of a launch.
struct FloatOperands {
    AttentionRows q, k, v, o;
    bool aligned = false;  ///< FloatAttentionArgs::aligned
    std::int32_t out_bytes = 4;
};

/// Over the queries of so many maps from `first` on.
void launch_float(const FloatVariant& variant, const AttentionProblem& problem, const AttentionCall& call,
                  const FloatOperands& of, std::int64_t first, std::int64_t maps) {
    const FloatAttentionShape& shape = variant.shape;
    int warps = warps_of(problem, shape.warp_rows(), FloatAttentionShape::kMostWarps);
    while (warps > 1 && shape.shared_bytes(warps) > here().shared_per_block) --warps;
    FloatAttentionArgs args = float_args(problem, call, first, std::int64_t{warps} * shape.warp_rows());
    args.q = of.q;
    args.k = of.k;
    args.v = of.v;
    args.o = of.o;
    args.aligned = of.aligned ? 1 : 0;
    args.out_bytes = of.out_bytes;
    const std::int64_t blocks = maps * args.tiles.q_blocks * args.tiles.tiles_of_block;
    launch(variant.kernel,
           {{static_cast<unsigned>(blocks)},
            {static_cast<unsigned>(warps) * 32},
            static_cast<std::size_t>(shape.shared_bytes(warps))},
           call.stream, args);
}

std::size_t no_workspace(const AttentionProblem&) {
    return 0;
}

void attend(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const bool bf16 = problem.dtype == DType::bf16;
    FloatOperands of;
    of.q = rows_of(call.q, call.q_strides, problem.heads);
    of.k = rows_of(call.k, call.k_strides, problem.kv_heads);
    of.v = rows_of(call.v, call.v_strides, problem.kv_heads);
    of.o = rows_of(call.o, call.o_strides, problem.heads);
    of.aligned = problem.head_dim % 8 == 0 && is_aligned(of.q) && is_aligned(of.k) && is_aligned(of.v);
    of.out_bytes = 2;
    launch_float(variant_for(bf16 ? kBf16Variants : kF16Variants, problem.head_dim), problem, call, of, 0,
                 problem.maps());
}

std::string takes_f32(const AttentionProblem& problem) {
    return problem.dtype == DType::f32 ? takes_no_centroids(problem) : "takes f32";
}

/// The pairs of one map of k and v, and of the maps of q that meet it.
std::size_t split_bytes(const AttentionProblem& problem) {
    const std::int64_t width = variant_for(kSplitVariants, problem.head_dim).shape.width;
    return static_cast<std::size_t>((problem.group() * problem.q_len + 2 * problem.k_len) * width) * 4;
}

/// Puts the pairs of `maps` maps of so many rows to `to`.
AttentionRows split(const AttentionRows& from, const AttentionProblem& problem, std::int64_t tokens,
                    std::int64_t maps, std::byte*& to, void* stream) {
    constexpr std::int64_t kRowsOfBlock = 8;
    const std::int64_t width = variant_for(kSplitVariants, problem.head_dim).shape.width;
    const SplitRowsArgs args = {from,
                                to,
                                tokens,
                                maps * tokens,
                                static_cast<std::int32_t>(problem.head_dim),
                                static_cast<std::int32_t>(width)};
    launch(kSplitRows, {{static_cast<unsigned>(parts_of(args.rows, kRowsOfBlock))}, {kRowsOfBlock * 32}},
           stream, args);
    to += args.rows * width * 4;
    return packed_rows(args.to, tokens, 2 * width, maps);
}

void attend_f32(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    attend_split(problem, call, rows_of(call.o, call.o_strides, problem.heads), 4);
}

}  // namespace

std::string takes_short_types(const AttentionProblem& problem) {
    if (problem.dtype != DType::bf16 && problem.dtype != DType::f16) return "takes bf16 and f16";
    return takes_no_centroids(problem);
}

std::size_t key_word_bytes(const AttentionProblem& problem) {
    if (!problem.hides_keys) return 0;
    return static_cast<std::size_t>(parts_of(problem.batch * seen_words(problem) * 8, 256) * 256);
}

AttentionCall with_key_words(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    AttentionCall own = call;
    if (!problem.hides_keys) return own;
    constexpr std::int64_t kThreads = 256;
    KeyWordsArgs args;
    args.mask = call.key_mask;
    args.to = reinterpret_cast<std::uint32_t*>(call.workspace);
    args.tokens = problem.k_len;
    args.padded = seen_words(problem) * 64;
    args.items = problem.batch;
    launch(kKeyWords, {{static_cast<unsigned>(parts_of(args.items * args.padded, kThreads))}, {kThreads}},
           call.stream, args);
    own.key_words = reinterpret_cast<const std::uint64_t*>(call.workspace);
    own.workspace += key_word_bytes(problem);
    return own;
}

bool is_aligned(const AttentionRows& rows) {
    return reinterpret_cast<std::uintptr_t>(rows.data) % 16 == 0 && rows.batch % 8 == 0 &&
           rows.head % 8 == 0 && rows.token % 8 == 0;
}

FloatAttentionArgs float_args(const AttentionProblem& problem, const AttentionCall& call, std::int64_t first,
                              std::int64_t rows) {
    FloatAttentionArgs args;
    args.tiles = tiles_of(problem, call, rows, first);
    args.bias = problem.biased ? call.bias : nullptr;
    args.lse = problem.wants_lse ? call.lse + first * problem.q_len : nullptr;
    args.factor = call.scale * 1.44269504F;
    args.inverse_scale = 1.0F / call.scale;
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.causal = problem.causal ? 1 : 0;
    return args;
}

std::size_t split_workspace(const AttentionProblem& problem) {
    return static_cast<std::size_t>(maps_at_once(problem, split_bytes(problem))) * split_bytes(problem);
}

void attend_split(const AttentionProblem& problem, const AttentionCall& call, const AttentionRows& o,
                  std::int32_t out_bytes) noexcept {
    const std::int64_t most = maps_at_once(problem, split_bytes(problem)), group = problem.group();
    for (std::int64_t first = 0; first < problem.kv_maps(); first += most) {
        const std::int64_t maps = std::min(most, problem.kv_maps() - first);
        std::byte* to = call.workspace;
        FloatOperands of;
        of.q = split(rows_of(call.q, call.q_strides, problem.heads, first * group), problem, problem.q_len,
                     maps * group, to, call.stream);
        of.k = split(rows_of(call.k, call.k_strides, problem.kv_heads, first), problem, problem.k_len, maps,
                     to, call.stream);
        of.v = split(rows_of(call.v, call.v_strides, problem.kv_heads, first), problem, problem.k_len, maps,
                     to, call.stream);
        of.o = o;
        of.o.first_map += first * group;
        of.aligned = true;
        of.out_bytes = out_bytes;
        launch_float(variant_for(kSplitVariants, problem.head_dim), problem, call, of, first * group,
                     maps * group);
    }
}

constexpr AttentionKernel kAttention = {.name = "cuda.sm80.attention",
                                        .formats = kFloatFormats,
                                        .why_not = takes_short_types,
                                        .workspace_bytes = and_key_words<no_workspace>,
                                        .run = after_key_words<attend>,
                                        .rounds_weights = true};

constexpr AttentionKernel kSplitAttention = {.name = "cuda.sm80.attention_f32",
                                             .formats = kFloatFormats,
                                             .why_not = takes_f32,
                                             .workspace_bytes = and_key_words<split_workspace>,
                                             .run = after_key_words<attend_f32>,
                                             .product_error = 0x1p-16F};

}  // namespace aerogel::cuda
