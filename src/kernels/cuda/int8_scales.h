// q, k and v of some maps to integers, with their scales and means: launches of int8_scales.cuh.
#pragma once

#include "base/function_ref.h"
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/int8_attention_args.h"

namespace aerogel::cuda {

/// Maps first .. first + count - 1 of k and v, and of q those that meet them.
struct MapRange {
    std::int64_t first, count;
};

Elements elements_of(DType dtype);
std::int64_t int8_groups(const AttentionProblem& problem);
/// Bytes of a row of integers: head_dim and the zeros behind it.
int int8_width(const AttentionProblem& problem);

/// Elements of an array that begins at map 0, from map `map` on.
template <typename T>
T* from_map(T* array, std::int64_t map, std::int64_t each) {
    return array == nullptr ? nullptr : array + map * each;
}

std::size_t whole_lines(std::int64_t bytes);
unsigned as_blocks(std::int64_t count);

/// Integers to `to`, by the scales of call.int8, or with on_the_way by those found on the way.
void launch_queries(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                    unsigned char* to, float* scale_to);
/// Blocks of keys, or those that wgmma takes, whose rows have 128 bytes or 256.
enum class KeyBlocks : std::uint8_t { plain, swizzled };
int width_of(KeyBlocks blocks, const AttentionProblem& problem);
void launch_keys(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                 unsigned char* to, KeyBlocks blocks = KeyBlocks::plain);
/// `to` null: only the scales, to call.int8.v_scale.
void launch_values(const AttentionProblem& problem, const AttentionCall& call, const MapRange& maps,
                   unsigned char* to);

/// Means of k or v, with call.int8.sums, to `to`.
void launch_means(const AttentionProblem& problem, const AttentionCall& call, const AttentionRows& from,
                  float* to);

/// A scale for every `block` tokens of so many maps, of values less the means.
struct BlockScales {
    std::int64_t tokens, block, maps;
    const float* mean;
    float* to;
};
void launch_block_scales(const AttentionProblem& problem, const AttentionCall& call,
                         const AttentionRows& from, const BlockScales& what);
/// Those of q, and of k less its means.
void launch_scales_of_tokens(const AttentionProblem& problem, const AttentionCall& call);

/// q and k of some maps as integers, each token by its own scale or by that of its block, k less its means
/// with call.smooth_k: the format int8_qk.
struct Int8Pair {
    unsigned char *q = nullptr, *k = nullptr;
    float* q_scale = nullptr;     ///< [maps, q_len]
    std::byte* beside = nullptr;  ///< PairLayout::beside for each map of k
};
struct PairLayout {
    KeyBlocks blocks = KeyBlocks::plain;
    std::size_t beside = 0;  ///< what else a map of k needs, in bytes
};
std::size_t int8_pair_workspace(const AttentionProblem& problem, const PairLayout& layout);
/// Makes the integers in call.workspace, some maps at a time, and calls attend() for those.
void for_int8_pairs(const AttentionProblem& problem, const AttentionCall& call, const PairLayout& layout,
                    FunctionRef<void(const MapRange& maps, const Int8Pair& pair)> attend);

}  // namespace aerogel::cuda
