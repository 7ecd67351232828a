// What the rows of attention on CUDA share: a call's arrays as their kernels take them, and how queries are
// dealt to blocks of threads.
#pragma once

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/launch.h"

namespace aerogel::cuda {

/// Rows of a call from map `first` on.
inline AttentionRows rows_of(const void* data, const AttentionStrides& strides, std::int64_t heads,
                             std::int64_t first = 0) {
    return {data, strides.batch, strides.head, strides.token, heads, strides.shared, strides.order, first};
}

/// Rows that lie one behind the other, all maps alike.
inline AttentionRows packed_rows(const void* data, std::int64_t tokens, std::int64_t width,
                                 std::int64_t maps) {
    return {data, 0, tokens * width, width, std::max<std::int64_t>(maps, 1), 1, nullptr, 0};
}

inline std::int64_t parts_of(std::int64_t count, std::int64_t part) {
    return (count + part - 1) / part;
}

/// Words of key_words for an item of the batch.
inline std::int64_t seen_words(const AttentionProblem& problem) {
    return parts_of(problem.k_len, 64);
}

/// The queries of a problem in blocks of `rows`, none of which has queries of two blocks of the mask. The
/// maps begin with `first`.
inline AttentionTiles tiles_of(const AttentionProblem& problem, const AttentionCall& call, std::int64_t rows,
                               std::int64_t first) {
    AttentionTiles tiles;
    tiles.q_len = problem.q_len;
    tiles.k_len = problem.k_len;
    tiles.group = problem.group();
    tiles.block_q = problem.masked ? problem.block_q : std::max<std::int64_t>(problem.q_len, 1);
    tiles.block_k = problem.masked ? problem.block_k : problem.k_len;
    tiles.q_blocks = parts_of(problem.q_len, tiles.block_q);
    tiles.tiles_of_block = parts_of(std::min(tiles.block_q, problem.q_len), rows);
    tiles.seen = call.key_words;
    tiles.seen_words = seen_words(problem);
    tiles.heads = problem.heads;
    tiles.first_map = first;
    if (problem.masked) {
        const MaskRows lists = call.mask.from(first * tiles.q_blocks);
        tiles.row_start = lists.row_start;
        tiles.row_end = lists.row_end == nullptr ? lists.row_start + 1 : lists.row_end;
        tiles.columns = lists.columns;
    }
    return tiles;
}

/// Warps that have something to do with the queries of one block of the mask.
inline int warps_of(const AttentionProblem& problem, int warp_rows, int most) {
    const std::int64_t queries = problem.masked ? std::min(problem.block_q, problem.q_len) : problem.q_len;
    return static_cast<int>(std::clamp<std::int64_t>(parts_of(queries, warp_rows), 1, most));
}

/// Maps of k and v at a time, at least one, whose copies take so many bytes each.
inline std::int64_t maps_at_once(const AttentionProblem& problem, std::size_t bytes_of_map) {
    constexpr std::size_t kMost = std::size_t{512} << 20;
    const auto fit = static_cast<std::int64_t>(kMost / std::max<std::size_t>(bytes_of_map, 1));
    return std::clamp<std::int64_t>(fit, 1, std::max<std::int64_t>(problem.kv_maps(), 1));
}

/// Puts the bits of call.key_mask, where there is one, in front of what else a row has in its workspace.
std::size_t key_word_bytes(const AttentionProblem& problem);
AttentionCall with_key_words(const AttentionProblem& problem, const AttentionCall& call) noexcept;

template <std::size_t (*kBytes)(const AttentionProblem&)>
std::size_t and_key_words(const AttentionProblem& problem) {
    return key_word_bytes(problem) + kBytes(problem);
}
template <void (*kRun)(const AttentionProblem&, const AttentionCall&) noexcept>
void after_key_words(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    kRun(problem, with_key_words(problem, call));
}

/// Whether rows of 16-bit numbers begin at 16 bytes.
bool is_aligned(const AttentionRows& rows);

/// All but the operands and o, for the queries of maps `first` and following in blocks of `rows`.
FloatAttentionArgs float_args(const AttentionProblem& problem, const AttentionCall& call, std::int64_t first,
                              std::int64_t rows);

/// Of kernels of the format int8_qk for v of 16 bits.
std::string takes_short_values(const AttentionProblem& problem);
/// Of float kernels for q, k and v of 16 bits.
std::string takes_short_types(const AttentionProblem& problem);

/// Attention of q, k and v in f32 as pairs of bf16, where o has f32 or bf16 (2 bytes) and lies where these
/// rows say.
std::size_t split_workspace(const AttentionProblem& problem);
void attend_split(const AttentionProblem& problem, const AttentionCall& call, const AttentionRows& o,
                  std::int32_t out_bytes) noexcept;

}  // namespace aerogel::cuda
