// How the passes of int8_scales.cuh are dealt to blocks of threads.
#include "kernels/cuda/int8_scales.h"

#include <utility>

namespace aerogel::cuda {

extern const Image kInt8ScalesImage;

namespace {

static_assert(kInt8Group == kQuantizedKeyGroup);

const Kernel kQueries = {kInt8ScalesImage, "aerogel_int8_queries"},
             kKeys = {kInt8ScalesImage, "aerogel_int8_keys"},
             kValues = {kInt8ScalesImage, "aerogel_int8_values"},
             kBlockScales = {kInt8ScalesImage, "aerogel_int8_block_scales"},
             kSums = {kInt8ScalesImage, "aerogel_int8_sums"},
             kMeans = {kInt8ScalesImage, "aerogel_int8_means"};

constexpr std::int64_t kRowsOfBlock = 8;  // a warp each

/// Threads that have a channel each.
unsigned channel_threads(std::int64_t channels) {
    return static_cast<unsigned>(parts_of(channels, 32) * 32);
}

Int8TokensArgs tokens_args(const AttentionProblem& problem, const AttentionRows& from, std::int64_t tokens) {
    Int8TokensArgs args;
    args.from = from;
    args.elements = elements_of(problem.dtype);
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.width = int8_width(problem);
    args.tokens = tokens;
    return args;
}

void launch_tokens(const Kernel& kernel, const Int8TokensArgs& args, void* stream) {
    launch(kernel, {{as_blocks(parts_of(args.rows, kRowsOfBlock))}, {kRowsOfBlock * 32}}, stream, args);
}

/// The workspace of int8_qk: means and scales of all maps, then integers of so many maps of k.
struct PairWorkspace {
    PairWorkspace(const AttentionProblem& problem, const PairLayout& layout, std::int64_t maps)
        : mean(whole_lines(problem.kv_maps() * problem.head_dim * 4)),
          sums(whole_lines(problem.kv_maps() * mean_portions(problem.k_len) * problem.head_dim * 8)),
          scales_of_q(whole_lines(problem.maps() * problem.q_len * 4)),
          scales_of_k(whole_lines(problem.kv_maps() * problem.k_len * 4)),
          q_scale(whole_lines(maps * problem.group() * problem.q_len * 4)),
          q(whole_lines(maps * problem.group() * problem.q_len * int8_width(problem))),
          k(whole_lines(maps * int8_groups(problem) * kInt8Group * (width_of(layout.blocks, problem) + 8))),
          beside(whole_lines(maps * static_cast<std::int64_t>(layout.beside))) {}

    std::size_t of_all() const { return mean + sums + scales_of_q + scales_of_k; }
    std::size_t of_maps() const { return q_scale + q + k + beside; }

    std::size_t mean, sums, scales_of_q, scales_of_k, q_scale, q, k, beside;
};

std::int64_t pairs_at_once(const AttentionProblem& problem, const PairLayout& layout) {
    return maps_at_once(problem, PairWorkspace(problem, layout, 1).of_maps());
}

}  // namespace

Elements elements_of(DType dtype) {
    return dtype == DType::f32 ? Elements::f32 : dtype == DType::bf16 ? Elements::bf16 : Elements::f16;
}

std::int64_t int8_groups(const AttentionProblem& problem) {
    return parts_of(problem.k_len, kInt8Group);
}

int int8_width(const AttentionProblem& problem) {
    return problem.head_dim <= 64 ? 64 : problem.head_dim <= 128 ? 128 : 256;
}

std::size_t whole_lines(std::int64_t bytes) {
    return static_cast<std::size_t>(parts_of(bytes, 256) * 256);
}

unsigned as_blocks(std::int64_t count) {
    return static_cast<unsigned>(count);
}

int width_of(KeyBlocks blocks, const AttentionProblem& problem) {
    const int width = int8_width(problem);
    return blocks == KeyBlocks::swizzled ? std::max(width, 128) : width;
}

void launch_queries(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                    unsigned char* to, float* scale_to) {
    const std::int64_t first = maps.first * problem.group(), count = maps.count * problem.group();
    Int8TokensArgs args =
        tokens_args(problem, rows_of(call.q, call.q_strides, problem.heads, first), problem.q_len);
    args.rows = count * problem.q_len;
    if (!call.int8.on_the_way) args.scale = from_map<const float>(call.int8.q_scale, first, problem.q_len);
    args.offset = from_map<const float>(call.int8.q_offset, first, 1);
    args.to = to;
    args.scale_to = scale_to;
    launch_tokens(kQueries, args, call.stream);
}

void launch_keys(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                 unsigned char* to, KeyBlocks blocks) {
    Int8TokensArgs args =
        tokens_args(problem, rows_of(call.k, call.k_strides, problem.kv_heads, maps.first), problem.k_len);
    args.width = width_of(blocks, problem);
    args.swizzled = blocks == KeyBlocks::swizzled ? 1 : 0;
    args.rows = maps.count * int8_groups(problem) * kInt8Group;
    if (!call.int8.on_the_way)
        args.scale = from_map<const float>(call.int8.k_scale, maps.first, problem.k_len);
    args.mean = from_map<const float>(call.int8.k_mean, maps.first, problem.head_dim);
    args.offset = from_map<const float>(call.int8.k_offset, maps.first, 1);
    args.to = to;
    launch_tokens(kKeys, args, call.stream);
}

void launch_values(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                   unsigned char* to) {
    Int8ValuesArgs args;
    args.from = rows_of(call.v, call.v_strides, problem.kv_heads, maps.first);
    args.elements = elements_of(problem.dtype);
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.width = int8_width(problem);
    args.tokens = problem.k_len;
    args.groups = int8_groups(problem);
    args.mean = from_map<const float>(call.int8.v_mean, maps.first, problem.head_dim);
    float* const scale = from_map(call.int8.v_scale, maps.first, args.groups * problem.head_dim);
    (to == nullptr || call.int8.on_the_way ? args.scale_to : const_cast<float*&>(args.scale)) = scale;
    args.offset = from_map<const float>(call.int8.v_offset, maps.first, 1);
    args.to = to;
    const std::int64_t channels = to == nullptr ? problem.head_dim : args.width;
    launch(kValues, {{as_blocks(maps.count * args.groups)}, {channel_threads(channels)}}, call.stream, args);
}

void launch_means(const AttentionProblem& problem, const AttentionCall& call, const AttentionRows& from,
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

void launch_block_scales(const AttentionProblem& problem, const AttentionCall& call,
                         const AttentionRows& from, const BlockScales& what) {
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

void launch_scales_of_tokens(const AttentionProblem& problem, const AttentionCall& call) {
    launch_block_scales(problem, call, rows_of(call.q, call.q_strides, problem.heads),
                        {problem.q_len, call.q_tokens, problem.maps(), nullptr, call.int8.q_scale});
    launch_block_scales(problem, call, rows_of(call.k, call.k_strides, problem.kv_heads),
                        {problem.k_len, call.k_tokens, problem.kv_maps(),
                         call.smooth_k ? call.int8.k_mean : nullptr, call.int8.k_scale});
}

std::size_t int8_pair_workspace(const AttentionProblem& problem, const PairLayout& layout) {
    const PairWorkspace parts(problem, layout, pairs_at_once(problem, layout));
    return parts.of_all() + parts.of_maps();
}

void for_int8_pairs(const AttentionProblem& problem, const AttentionCall& call, const PairLayout& layout,
                    FunctionRef<void(const MapRange& maps, const Int8Pair& pair)> attend) {
    const std::int64_t most = pairs_at_once(problem, layout);
    const PairWorkspace parts(problem, layout, most);
    std::byte* place = call.workspace;
    const auto take = [&](std::size_t bytes) { return std::exchange(place, place + bytes); };
    AttentionCall own = call;
    own.int8 = {};
    auto* const mean = reinterpret_cast<float*>(take(parts.mean));
    own.int8.k_mean = call.smooth_k ? mean : nullptr;
    own.int8.sums = reinterpret_cast<double*>(take(parts.sums));
    own.int8.q_scale = reinterpret_cast<float*>(take(parts.scales_of_q));
    own.int8.k_scale = reinterpret_cast<float*>(take(parts.scales_of_k));
    own.int8.on_the_way = call.q_tokens == 1 && call.k_tokens == 1;
    Int8Pair pair;
    pair.q_scale = reinterpret_cast<float*>(take(parts.q_scale));
    pair.q = reinterpret_cast<unsigned char*>(take(parts.q));
    pair.k = reinterpret_cast<unsigned char*>(take(parts.k));
    pair.beside = take(parts.beside);
    if (call.smooth_k && problem.k_len > 0)
        launch_means(problem, own, rows_of(call.k, call.k_strides, problem.kv_heads), mean);
    if (!own.int8.on_the_way) launch_scales_of_tokens(problem, own);
    for (std::int64_t first = 0; first < problem.kv_maps(); first += most) {
        const MapRange maps = {first, std::min(most, problem.kv_maps() - first)};
        launch_queries(problem, own, maps, pair.q, pair.q_scale);
        launch_keys(problem, own, maps, pair.k, layout.blocks);
        attend(maps, pair);
    }
}

}  // namespace aerogel::cuda
