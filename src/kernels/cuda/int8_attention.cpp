// Int8 attention on CUDA: q, k and v become integers in the workspace, some heads at a time, then one kernel.

#include "kernels/cuda/int8_scales.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {

extern const Image kInt8AttentionImage;

namespace {

struct Int8Variant {
    Kernel kernel;
    Int8Shape shape;
};
const Int8Variant kVariants[] = {{{kInt8AttentionImage, "aerogel_int8_attention_64"}, kNarrowInt8},
                                 {{kInt8AttentionImage, "aerogel_int8_attention_128"}, kMiddleInt8},
                                 {{kInt8AttentionImage, "aerogel_int8_attention_256"}, kWideInt8}};
const Int8Variant& variant_of(const AttentionProblem& problem) {
    return kVariants[problem.head_dim <= 64 ? 0 : problem.head_dim <= 128 ? 1 : 2];
}

/// The integers of one map of k and v and of the maps of q that meet it, and where they lie for so many of
/// them.
struct Int8Workspace {
    Int8Workspace(const AttentionProblem& problem, std::int64_t maps)
        : q(whole_lines(maps * problem.group() * problem.q_len * variant_of(problem).shape.width)),
          q_scale(whole_lines(maps * problem.group() * problem.q_len * 4)),
          k(whole_lines(maps * int8_groups(problem) * variant_of(problem).shape.key_bytes())),
          v(whole_lines(maps * int8_groups(problem) * variant_of(problem).shape.value_bytes())) {}

    std::size_t bytes() const { return q + q_scale + k + v; }

    std::size_t q, q_scale, k, v;
};

std::int64_t int8_maps_at_once(const AttentionProblem& problem) {
    return maps_at_once(problem, Int8Workspace(problem, 1).bytes());
}

std::size_t int8_workspace(const AttentionProblem& problem) {
    return Int8Workspace(problem, int8_maps_at_once(problem)).bytes();
}

void attend_maps(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps) {
    const Int8Variant& variant = variant_of(problem);
    const Int8Workspace parts(problem, maps.count);
    auto* const place = reinterpret_cast<unsigned char*>(call.workspace);
    const std::int64_t first = maps.first * problem.group();
    Int8AttentionArgs args;
    args.q = place;
    args.q_scale = reinterpret_cast<const float*>(place + parts.q);
    args.k = place + parts.q + parts.q_scale;
    args.v = args.k + parts.k;
    launch_queries(problem, call, maps, place, reinterpret_cast<float*>(place + parts.q));
    launch_keys(problem, call, maps, place + parts.q + parts.q_scale);
    launch_values(problem, call, maps, place + parts.q + parts.q_scale + parts.k);
    const int warps = warps_of(problem, variant.shape.warp_rows(), Int8Shape::kMostWarps);
    args.q_offset = from_map<const float>(call.int8.q_offset, first, 1);
    args.v_shift = from_map<const float>(call.int8.v_shift, maps.first, problem.head_dim);
    args.o = rows_of(call.o, call.o_strides, problem.heads, first);
    args.tiles = tiles_of(problem, call, std::int64_t{warps} * variant.shape.warp_rows(), first);
    args.lse = problem.wants_lse ? call.lse + first * problem.q_len : nullptr;
    args.factor = call.scale * 1.44269504F;
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.out = elements_of(problem.dtype);
    const std::int64_t blocks =
        maps.count * problem.group() * args.tiles.q_blocks * args.tiles.tiles_of_block;
    launch(variant.kernel,
           {{as_blocks(blocks)},
            {static_cast<unsigned>(warps) * 32},
            static_cast<std::size_t>(variant.shape.shared_bytes(warps))},
           call.stream, args);
}

void attend_int8(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const std::int64_t most = int8_maps_at_once(problem);
    for (std::int64_t first = 0; first < problem.kv_maps(); first += most)
        attend_maps(problem, call, {first, std::min(most, problem.kv_maps() - first)});
}

void find_int8_scales(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const Int8Arrays& to = call.int8;
    if (problem.k_len > 0) {
        if (call.smooth_k)
            launch_means(problem, call, rows_of(call.k, call.k_strides, problem.kv_heads), to.k_mean);
        launch_means(problem, call, rows_of(call.v, call.v_strides, problem.kv_heads), to.v_mean);
    }
    if (to.on_the_way) return;
    launch_scales_of_tokens(problem, call);
    launch_values(problem, call, {0, problem.kv_maps()}, nullptr);
}

std::string takes_kept_keys(const AttentionProblem& problem) {
    return problem.centroids ? takes_no_centroids(problem) : takes_all_keys(problem);
}

}  // namespace

constexpr AttentionKernel kInt8Attention = {.name = "cuda.sm80.int8_attention",
                                            .formats = kInt8Formats,
                                            .why_not = takes_kept_keys,
                                            .workspace_bytes = and_key_words<int8_workspace>,
                                            .run = after_key_words<attend_int8>,
                                            .find_scales = find_int8_scales,
                                            .largest_weight = kWideWeight};

}  // namespace aerogel::cuda
