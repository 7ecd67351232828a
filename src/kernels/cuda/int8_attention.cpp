// Int8 attention on CUDA: q, k and v become integers in the workspace, some heads at a time, then one kernel.
#include <limits>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/int8_attention_args.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {

extern const Image kInt8AttentionImage, kInt8ScalesImage;

namespace {

static_assert(kInt8Group == kQuantizedKeyGroup);

struct Int8Variant {
    Kernel kernel;
    Int8Shape shape;
};
const Int8Variant kVariants[] = {{{kInt8AttentionImage, "aerogel_int8_attention_64"}, kNarrowInt8},
                                 {{kInt8AttentionImage, "aerogel_int8_attention_128"}, kMiddleInt8},
                                 {{kInt8AttentionImage, "aerogel_int8_attention_256"}, kWideInt8}};
const Kernel kQueries = {kInt8ScalesImage, "aerogel_int8_queries"},
             kKeys = {kInt8ScalesImage, "aerogel_int8_keys"},
             kValues = {kInt8ScalesImage, "aerogel_int8_values"},
             kBlockScales = {kInt8ScalesImage, "aerogel_int8_block_scales"},
             kSums = {kInt8ScalesImage, "aerogel_int8_sums"},
             kMeans = {kInt8ScalesImage, "aerogel_int8_means"};

constexpr std::int64_t kRowsOfBlock = 8;  // a warp each

const Int8Variant& variant_of(const AttentionProblem& problem) {
    return kVariants[problem.head_dim <= 64 ? 0 : problem.head_dim <= 128 ? 1 : 2];
}

Elements elements_of(DType dtype) {
    return dtype == DType::f32 ? Elements::f32 : dtype == DType::bf16 ? Elements::bf16 : Elements::f16;
}

std::int64_t groups_of(const AttentionProblem& problem) {
    return parts_of(problem.k_len, kInt8Group);
}

/// Threads that have a channel each.
unsigned channel_threads(std::int64_t channels) {
    return static_cast<unsigned>(parts_of(channels, 32) * 32);
}

unsigned as_blocks(std::int64_t count) {
    return static_cast<unsigned>(count);
}

std::size_t whole_lines(std::int64_t bytes) {
    return static_cast<std::size_t>(parts_of(bytes, 256) * 256);
}

/// The integers of one map of k and v and of the maps of q that meet it, and where they lie for so many of
/// them.
struct Int8Workspace {
    Int8Workspace(const AttentionProblem& problem, std::int64_t maps)
        : q(whole_lines(maps * problem.group() * problem.q_len * variant_of(problem).shape.width)),
          q_scale(whole_lines(maps * problem.group() * problem.q_len * 4)),
          k(whole_lines(maps * groups_of(problem) * variant_of(problem).shape.key_bytes())),
          v(whole_lines(maps * groups_of(problem) * variant_of(problem).shape.value_bytes())) {}

    std::size_t bytes() const { return q + q_scale + k + v; }

    std::size_t q, q_scale, k, v;
};

std::int64_t int8_maps_at_once(const AttentionProblem& problem) {
    return maps_at_once(problem, Int8Workspace(problem, 1).bytes());
}

std::size_t int8_workspace(const AttentionProblem& problem) {
    return Int8Workspace(problem, int8_maps_at_once(problem)).bytes();
}

/// Elements of an array that begins at map 0, from map `map` on.
template <typename T>
T* from_map(T* array, std::int64_t map, std::int64_t each) {
    return array == nullptr ? nullptr : array + map * each;
}

/// Maps first .. first + count - 1 of k and v, and of q those that meet them.
struct MapRange {
    std::int64_t first, count;
};

Int8TokensArgs tokens_args(const AttentionProblem& problem, const AttentionRows& from, std::int64_t tokens) {
    Int8TokensArgs args;
    args.from = from;
    args.elements = elements_of(problem.dtype);
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.width = variant_of(problem).shape.width;
    args.tokens = tokens;
    return args;
}

void quantize_queries(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                      const Int8AttentionArgs& to) {
    const std::int64_t first = maps.first * problem.group(), count = maps.count * problem.group();
    Int8TokensArgs args =
        tokens_args(problem, rows_of(call.q, call.q_strides, problem.heads, first), problem.q_len);
    args.rows = count * problem.q_len;
    if (!call.int8.on_the_way) args.scale = from_map<const float>(call.int8.q_scale, first, problem.q_len);
    args.offset = from_map<const float>(call.int8.q_offset, first, 1);
    args.to = const_cast<unsigned char*>(to.q);
    args.scale_to = const_cast<float*>(to.q_scale);
    launch(kQueries, {{as_blocks(parts_of(args.rows, kRowsOfBlock))}, {kRowsOfBlock * 32}}, call.stream,
           args);
}

void quantize_keys(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                   const Int8AttentionArgs& to) {
    Int8TokensArgs args =
        tokens_args(problem, rows_of(call.k, call.k_strides, problem.kv_heads, maps.first), problem.k_len);
    args.rows = maps.count * groups_of(problem) * kInt8Group;
    if (!call.int8.on_the_way)
        args.scale = from_map<const float>(call.int8.k_scale, maps.first, problem.k_len);
    args.mean = from_map<const float>(call.int8.k_mean, maps.first, problem.head_dim);
    args.offset = from_map<const float>(call.int8.k_offset, maps.first, 1);
    args.to = const_cast<unsigned char*>(to.k);
    launch(kKeys, {{as_blocks(parts_of(args.rows, kRowsOfBlock))}, {kRowsOfBlock * 32}}, call.stream, args);
}

Int8ValuesArgs values_args(const AttentionProblem& problem, const AttentionCall& call, std::int64_t first) {
    Int8ValuesArgs args;
    args.from = rows_of(call.v, call.v_strides, problem.kv_heads, first);
    args.elements = elements_of(problem.dtype);
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.width = variant_of(problem).shape.width;
    args.tokens = problem.k_len;
    args.groups = groups_of(problem);
    args.mean = from_map<const float>(call.int8.v_mean, first, problem.head_dim);
    return args;
}

void quantize_values(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                     const Int8AttentionArgs& to) {
    Int8ValuesArgs args = values_args(problem, call, maps.first);
    float* const scale = from_map(call.int8.v_scale, maps.first, args.groups * problem.head_dim);
    (call.int8.on_the_way ? args.scale_to : const_cast<float*&>(args.scale)) = scale;
    args.offset = from_map<const float>(call.int8.v_offset, maps.first, 1);
    args.to = const_cast<unsigned char*>(to.v);
    launch(kValues, {{as_blocks(maps.count * args.groups)}, {channel_threads(args.width)}}, call.stream,
           args);
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
    quantize_queries(problem, call, maps, args);
    quantize_keys(problem, call, maps, args);
    quantize_values(problem, call, maps, args);
    const int warps = warps_of(problem, variant.shape.warp_rows(), Int8Shape::kMostWarps);
    args.q_offset = from_map<const float>(call.int8.q_offset, first, 1);
    args.v_shift = from_map<const float>(call.int8.v_shift, maps.first, problem.head_dim);
    args.o = rows_of(call.o, call.o_strides, problem.heads, first);
    args.tiles = tiles_of(problem, call.mask, std::int64_t{warps} * variant.shape.warp_rows(), first);
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

void find_means(const AttentionProblem& problem, const AttentionCall& call, const AttentionRows& from,
                float* to) {
    Int8MeansArgs args;
    args.from = from;
    args.elements = elements_of(problem.dtype);
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.tokens = problem.k_len;
    args.portions = mean_portions(problem.k_len);
    args.maps = problem.kv_maps();
    args.sums = call.int8.sums;
    args.mean_to = to;
    const unsigned threads = channel_threads(problem.head_dim);
    launch(kSums, {{as_blocks(args.maps * args.portions)}, {threads}}, call.stream, args);
    launch(kMeans, {{as_blocks(args.maps)}, {threads}}, call.stream, args);
}

struct BlockScales {
    std::int64_t tokens, block, maps;
    const float* mean;
    float* to;
};

void find_block_scales(const AttentionProblem& problem, const AttentionCall& call, const AttentionRows& from,
                       const BlockScales& what) {
    Int8BlockScalesArgs args;
    args.from = from;
    args.elements = elements_of(problem.dtype);
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.tokens = what.tokens;
    args.block = std::min(what.block, std::max<std::int64_t>(what.tokens, 1));
    args.blocks = parts_of(what.tokens, args.block);
    args.mean = what.mean;
    args.scale_to = what.to;
    const auto warps = static_cast<unsigned>(std::min<std::int64_t>(args.block, kRowsOfBlock));
    launch(kBlockScales, {{as_blocks(what.maps * args.blocks)}, {warps * 32}, warps * 4}, call.stream, args);
}

void find_int8_scales(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const Int8Arrays& to = call.int8;
    const AttentionRows q = rows_of(call.q, call.q_strides, problem.heads);
    const AttentionRows k = rows_of(call.k, call.k_strides, problem.kv_heads);
    const AttentionRows v = rows_of(call.v, call.v_strides, problem.kv_heads);
    if (!to.on_the_way)
        find_block_scales(problem, call, q,
                          {problem.q_len, call.q_tokens, problem.maps(), nullptr, to.q_scale});
    if (problem.k_len == 0) return;
    if (call.smooth_k) find_means(problem, call, k, to.k_mean);
    find_means(problem, call, v, to.v_mean);
    if (to.on_the_way) return;
    find_block_scales(
        problem, call, k,
        {problem.k_len, call.k_tokens, problem.kv_maps(), call.smooth_k ? to.k_mean : nullptr, to.k_scale});
    Int8ValuesArgs args = values_args(problem, call, 0);
    args.mean = to.v_mean;
    args.scale_to = to.v_scale;
    launch(kValues, {{as_blocks(problem.kv_maps() * args.groups)}, {channel_threads(problem.head_dim)}},
           call.stream, args);
}

std::string takes_kept_keys(const AttentionProblem& problem) {
    return problem.centroids ? takes_no_centroids(problem) : takes_all_keys(problem);
}

}  // namespace

constexpr AttentionKernel kInt8Attention = {.name = "cuda.sm80.int8_attention",
                                            .formats = kInt8Formats,
                                            .why_not = takes_kept_keys,
                                            .workspace_bytes = int8_workspace,
                                            .run = attend_int8,
                                            .find_scales = find_int8_scales,
                                            .largest_weight = kWideWeight};

}  // namespace aerogel::cuda
