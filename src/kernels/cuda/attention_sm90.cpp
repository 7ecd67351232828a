// Attention by wgmma on Hopper: keys and values become blocks that TMA copies as runs, some heads at a time;
// q is read where it lies, or becomes integers as k does (the format int8_qk).
#include "kernels/cuda/attention_sm90_args.h"
#include "kernels/cuda/int8_scales.h"
#include "kernels/cuda/kernels.h"

namespace aerogel::cuda {

extern const Image kAttentionSm90Image, kInt8QkSm90Image;

namespace {

/// One kernel and its sizes.
struct HopperVariant {
    Kernel kernel;
    HopperAttentionShape shape;
};
/// By type, bf16 and f16; of each by warp groups and width: 1 of 64, 128 and 256, 2 of 64 and 128.
using HopperVariants = HopperVariant[10];

#define AEROGEL_VARIANT(image, name, width, groups, bytes) \
    { {image, name "_" #width "_" #groups}, hopper_attention(width, groups, bytes) }
#define AEROGEL_VARIANTS(image, name, bytes)                                                     \
    AEROGEL_VARIANT(image, name, 64, 1, bytes), AEROGEL_VARIANT(image, name, 128, 1, bytes),     \
        AEROGEL_VARIANT(image, name, 256, 1, bytes), AEROGEL_VARIANT(image, name, 64, 2, bytes), \
        AEROGEL_VARIANT(image, name, 128, 2, bytes)
const HopperVariants kFloatVariants = {
    AEROGEL_VARIANTS(kAttentionSm90Image, "aerogel_attention_sm90_bf16", 2),
    AEROGEL_VARIANTS(kAttentionSm90Image, "aerogel_attention_sm90_f16", 2)};
const HopperVariants kInt8Variants = {AEROGEL_VARIANTS(kInt8QkSm90Image, "aerogel_int8_qk_sm90_bf16", 1),
                                      AEROGEL_VARIANTS(kInt8QkSm90Image, "aerogel_int8_qk_sm90_f16", 1)};
#undef AEROGEL_VARIANTS
#undef AEROGEL_VARIANT
const Kernel kTileRows = {kAttentionSm90Image, "aerogel_tile_rows"};

/// One warp group where 64 queries are all that meet the same keys.
const HopperVariant& hopper_variant(const HopperVariants& variants, const AttentionProblem& problem) {
    const std::int64_t queries = problem.masked ? std::min(problem.block_q, problem.q_len) : problem.q_len;
    const std::size_t type = problem.dtype == DType::bf16 ? 0 : 5;
    if (problem.head_dim > 128) return variants[type + 2];
    return variants[type + (queries <= 64 ? 0U : 3U) + (problem.head_dim <= 64 ? 0U : 1U)];
}

std::int64_t tile_blocks(const AttentionProblem& problem) {
    return parts_of(problem.k_len, kTileTokens);
}

/// Of one map of k or of v.
std::size_t tile_bytes(const AttentionProblem& problem) {
    return static_cast<std::size_t>(tile_blocks(problem) * kTileTokens * int8_width(problem) * 2);
}

void launch_tiles(const AttentionProblem& problem, const AttentionRows& from, std::int64_t maps,
                  std::byte* to, void* stream) {
    constexpr std::int64_t kThreads = 256;
    TileRowsArgs args;
    args.from = from;
    args.to = reinterpret_cast<unsigned char*>(to);
    args.tokens = problem.k_len;
    args.rows = maps * tile_blocks(problem) * kTileTokens;
    args.head_dim = static_cast<std::int32_t>(problem.head_dim);
    args.width = int8_width(problem);
    args.aligned = problem.head_dim % 8 == 0 && is_aligned(from) ? 1 : 0;
    launch(kTileRows, {{as_blocks(parts_of(args.rows * (args.width / 8), kThreads))}, {kThreads}}, stream,
           args);
}

/// Whether pairs of channels of o are whole and begin at 4 bytes.
bool in_pairs(const AttentionRows& o, std::int64_t head_dim) {
    return head_dim % 2 == 0 && reinterpret_cast<std::uintptr_t>(o.data) % 4 == 0 && o.batch % 2 == 0 &&
           o.head % 2 == 0 && o.token % 2 == 0;
}

/// `args` with the blocks of keys and values, and what belongs to q.
void launch_hopper(const HopperVariant& variant, const AttentionProblem& problem, const AttentionCall& call,
                   HopperAttentionArgs args, const MapRange& maps) {
    const std::int64_t first = maps.first * problem.group();
    const FloatAttentionArgs of_q = args.rest;
    args.rest = float_args(problem, call, first, variant.shape.rows());
    args.rest.q = of_q.q;
    args.rest.aligned = of_q.aligned;
    args.rest.o = rows_of(call.o, call.o_strides, problem.heads, first);
    args.o_in_pairs = in_pairs(args.rest.o, problem.head_dim) ? 1 : 0;
    const AttentionTiles& tiles = args.rest.tiles;
    launch(variant.kernel,
           {{as_blocks(maps.count * problem.group() * tiles.q_blocks * tiles.tiles_of_block)},
            {static_cast<unsigned>(variant.shape.threads())},
            static_cast<std::size_t>(variant.shape.shared_bytes())},
           call.stream, args);
}

std::int64_t tiled_maps_at_once(const AttentionProblem& problem) {
    return maps_at_once(problem, 2 * tile_bytes(problem));
}

std::size_t tiled_workspace(const AttentionProblem& problem) {
    return static_cast<std::size_t>(tiled_maps_at_once(problem)) * 2 * tile_bytes(problem);
}

void attend_tiled(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const HopperVariant& variant = hopper_variant(kFloatVariants, problem);
    const std::int64_t most = tiled_maps_at_once(problem);
    std::byte* const values = call.workspace + static_cast<std::size_t>(most) * tile_bytes(problem);
    HopperAttentionArgs args;
    args.k = reinterpret_cast<const unsigned char*>(call.workspace);
    args.v = reinterpret_cast<const unsigned char*>(values);
    for (std::int64_t first = 0; first < problem.kv_maps(); first += most) {
        const MapRange maps = {first, std::min(most, problem.kv_maps() - first)};
        launch_tiles(problem, rows_of(call.k, call.k_strides, problem.kv_heads, first), maps.count,
                     call.workspace, call.stream);
        launch_tiles(problem, rows_of(call.v, call.v_strides, problem.kv_heads, first), maps.count, values,
                     call.stream);
        args.rest.q = rows_of(call.q, call.q_strides, problem.heads, first * problem.group());
        args.rest.aligned = problem.head_dim % 8 == 0 && is_aligned(args.rest.q) ? 1 : 0;
        launch_hopper(variant, problem, call, args, maps);
    }
}

PairLayout tiled_pairs(const AttentionProblem& problem) {
    return {KeyBlocks::swizzled, tile_bytes(problem)};
}

std::size_t tiled_pair_workspace(const AttentionProblem& problem) {
    return int8_pair_workspace(problem, tiled_pairs(problem));
}

void attend_tiled_pairs(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const HopperVariant& variant = hopper_variant(kInt8Variants, problem);
    for_int8_pairs(problem, call, tiled_pairs(problem), [&](const MapRange& maps, const Int8Pair& pair) {
        launch_tiles(problem, rows_of(call.v, call.v_strides, problem.kv_heads, maps.first), maps.count,
                     pair.beside, call.stream);
        HopperAttentionArgs args;
        args.k = pair.k;
        args.v = reinterpret_cast<const unsigned char*>(pair.beside);
        args.q = pair.q;
        args.q_scale = pair.q_scale;
        launch_hopper(variant, problem, call, args, maps);
    });
}

}  // namespace

constexpr AttentionKernel kHopperAttention = {.name = "cuda.sm90.attention",
                                              .formats = kFloatFormats,
                                              .why_not = takes_short_types,
                                              .workspace_bytes = and_key_words<tiled_workspace>,
                                              .run = after_key_words<attend_tiled>,
                                              .rounds_weights = true};

constexpr AttentionKernel kHopperInt8QkAttention = {.name = "cuda.sm90.int8_qk_attention",
                                                    .formats = formats_of(AttentionFormat::int8_qk),
                                                    .why_not = takes_short_values,
                                                    .workspace_bytes = and_key_words<tiled_pair_workspace>,
                                                    .run = after_key_words<attend_tiled_pairs>,
                                                    .rounds_weights = true};

}  // namespace aerogel::cuda
