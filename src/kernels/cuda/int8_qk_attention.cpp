// Attention with q and k in int8 and v of 16 bits on CUDA: q and k become integers in the workspace, some
// heads at a time, v is read where it lies.
#include "kernels/cuda/int8_qk_args.h"
#include "kernels/cuda/int8_scales.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {

extern const Image kInt8QkAttentionImage;

namespace {

struct Int8QkVariant {
    Kernel kernel;
    Int8QkShape shape;
};
const Int8QkVariant kBf16Qk[] = {{{kInt8QkAttentionImage, "aerogel_int8_qk_bf16_64"}, kNarrowInt8Qk},
                                 {{kInt8QkAttentionImage, "aerogel_int8_qk_bf16_128"}, kMiddleInt8Qk},
                                 {{kInt8QkAttentionImage, "aerogel_int8_qk_bf16_256"}, kWideInt8Qk}};
const Int8QkVariant kF16Qk[] = {{{kInt8QkAttentionImage, "aerogel_int8_qk_f16_64"}, kNarrowInt8Qk},
                                {{kInt8QkAttentionImage, "aerogel_int8_qk_f16_128"}, kMiddleInt8Qk},
                                {{kInt8QkAttentionImage, "aerogel_int8_qk_f16_256"}, kWideInt8Qk}};

const Int8QkVariant& qk_variant_of(const AttentionProblem& problem) {
    const auto& variants = problem.dtype == DType::bf16 ? kBf16Qk : kF16Qk;
    return variants[problem.head_dim <= 64 ? 0 : problem.head_dim <= 128 ? 1 : 2];
}

std::size_t qk_workspace(const AttentionProblem& problem) {
    return int8_pair_workspace(problem, {});
}

void attend_qk_maps(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                    const Int8Pair& pair) {
    const auto& [kernel, shape] = qk_variant_of(problem);
    int warps = warps_of(problem, shape.warp_rows(), Int8QkShape::kMostWarps);
    while (warps > 1 && shape.shared_bytes(warps) > here().shared_per_block) --warps;
    const std::int64_t first = maps.first * problem.group();
    Int8QkArgs args;
    args.rest = float_args(problem, call, first, std::int64_t{warps} * shape.warp_rows());
    args.rest.v = rows_of(call.v, call.v_strides, problem.kv_heads, maps.first);
    args.rest.o = rows_of(call.o, call.o_strides, problem.heads, first);
    args.rest.aligned = problem.head_dim % 8 == 0 && is_aligned(args.rest.v);
    args.rest.out_bytes = 2;
    args.q = pair.q;
    args.k = pair.k;
    args.q_scale = pair.q_scale;
    const AttentionTiles& tiles = args.rest.tiles;
    launch(kernel,
           {{as_blocks(maps.count * problem.group() * tiles.q_blocks * tiles.tiles_of_block)},
            {static_cast<unsigned>(warps) * 32},
            static_cast<std::size_t>(shape.shared_bytes(warps))},
           call.stream, args);
}

void attend_qk(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    for_int8_pairs(problem, call, {}, [&](const MapRange& maps, const Int8Pair& pair) {
        attend_qk_maps(problem, call, maps, pair);
    });
}

}  // namespace

std::string takes_short_values(const AttentionProblem& problem) {
    if (problem.dtype != DType::bf16 && problem.dtype != DType::f16) return "takes bf16 and f16";
    return problem.biased ? takes_no_bias(problem) : takes_no_centroids(problem);
}

constexpr AttentionKernel kInt8QkAttention = {.name = "cuda.sm80.int8_qk_attention",
                                              .formats = formats_of(AttentionFormat::int8_qk),
                                              .why_not = takes_short_values,
                                              .workspace_bytes = and_key_words<qk_workspace>,
                                              .run = after_key_words<attend_qk>,
                                              .rounds_weights = true};

}  // namespace aerogel::cuda
