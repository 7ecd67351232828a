// The scales of int8 attention as every CPU level finds them: plain loops over the channels of a row, which
// the compiler turns into vectors of the level. Largest values are found as integers: among floats without
// sign, order is integer order, and what is not finite comes last. A channel's sum goes token by token, so
// the bits are the same at every level.
// Included by sources built for one CPU level, so everything is local to the including file.
#pragma once

#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/cpu/attention_tiling.h"
#include "kernels/cpu/bf16_bits.h"

namespace aerogel {
namespace {

constexpr std::int64_t kMostChannels = 256;

/// q, k or v of one call.
struct Operand {
    const AttentionProblem& problem;
    const void* data;
    AttentionStrides strides;
    std::int64_t heads, tokens;
    const float* means = nullptr;  ///< [maps][head_dim] or null

    template <typename Element>
    Rows<const Element> rows(std::int64_t map) const {
        return rows_of<const Element>(data, strides, heads, map);
    }
    std::int64_t maps() const { return problem.batch * heads; }
};

/// |x - mean| as the integer of its bits.
template <typename Element>
std::int32_t magnitude(Element x, float mean) {
    return __builtin_bit_cast(std::int32_t, float_of(x) - mean) & 0x7FFFFFFF;
}

/// Largest |x - mean| of tokens of one map, as integers: of all channels together, or of each.
template <typename Element>
struct LargestBits {
    LargestBits(const Operand& operand, std::int64_t map) : of(operand), rows(operand.rows<Element>(map)) {
        if (of.means == nullptr) return;
        for (std::int64_t c = 0; c < of.problem.head_dim; ++c)
            mean[c] = of.means[map * of.problem.head_dim + c];
    }

    /// Of one token.
    std::int32_t of_token(std::int64_t token) const {
        const Element* x = rows.at(token);
        std::int32_t all = 0;
        for (std::int64_t c = 0; c < of.problem.head_dim; ++c) {
            const std::int32_t found = magnitude(x[c], mean[c]);
            all = all > found ? all : found;
        }
        return all;
    }

    /// Of tokens first..last-1.
    std::int32_t of_tokens(std::int64_t first, std::int64_t last) const {
        std::int32_t all = 0;
        for (std::int64_t token = first; token < last; ++token) {
            const std::int32_t found = of_token(token);
            all = all > found ? all : found;
        }
        return all;
    }

    /// bits[c] = the largest of channel c so far and this token's.
    void raise(std::int64_t token) {
        rows.prefetch(token + kAhead, of.tokens, of.problem.head_dim);
        const Element* x = rows.at(token);
        for (std::int64_t c = 0; c < of.problem.head_dim; ++c) {
            const std::int32_t found = magnitude(x[c], mean[c]);
            bits[c] = bits[c] > found ? bits[c] : found;
        }
    }

    const Operand& of;
    Rows<const Element> rows;
    alignas(64) float mean[kMostChannels] = {};
    alignas(64) std::int32_t bits[kMostChannels] = {};
};

inline float scale_of(std::int32_t bits) {
    if (bits >= 0x7F800000) return __builtin_nanf("");
    const float scale = __builtin_bit_cast(float, bits) / 127.0F;
    return scale == 0.0F ? 1.0F : scale;
}

/// A scale per block of tokens, repeated for each of them: [maps][tokens].
template <typename Element>
void block_scales(const Operand& of, std::int64_t block_tokens, float* scales) {
    const std::int64_t block = smaller(block_tokens, of.tokens);
    const std::int64_t portion = round_up(kQuantizedKeyGroup, block);
    const std::int64_t portions = (of.tokens + portion - 1) / portion;
    parallel_for(of.maps() * portions, [&](std::int64_t task, int) {
        const std::int64_t map = task / portions, begin = task % portions * portion;
        const std::int64_t end = smaller(begin + portion, of.tokens);
        const LargestBits<Element> bits(of, map);
        for (std::int64_t first = begin; first < end; first += block) {
            const std::int64_t last = smaller(first + block, of.tokens);
            const float scale = scale_of(bits.of_tokens(first, last));
            for (std::int64_t token = first; token < last; ++token) scales[map * of.tokens + token] = scale;
        }
    });
}

/// A scale per channel of one group of keys, [head_dim].
template <typename Element>
void channel_scales(const Operand& of, std::int64_t map, std::int64_t group, float* scales) {
    LargestBits<Element> bits(of, map);
    const std::int64_t first = group * kQuantizedKeyGroup;
    const std::int64_t last = smaller(first + kQuantizedKeyGroup, of.tokens);
    for (std::int64_t token = first; token < last; ++token) bits.raise(token);
    for (std::int64_t c = 0; c < of.problem.head_dim; ++c) scales[c] = scale_of(bits.bits[c]);
}

/// Those of every group, [maps][groups][head_dim].
template <typename Element>
void group_scales(const Operand& of, float* scales) {
    const std::int64_t groups = (of.tokens + kQuantizedKeyGroup - 1) / kQuantizedKeyGroup;
    parallel_for(of.maps() * groups, [&](std::int64_t task, int) {
        channel_scales<Element>(of, task / groups, task % groups, scales + task * of.problem.head_dim);
    });
}

/// The mean over the tokens of every channel, [maps][head_dim], by way of sums over portions of them.
template <typename Element>
void channel_means(const Operand& of, double* sums, float* means) {
    const std::int64_t d = of.problem.head_dim, portions = mean_portions(of.tokens);
    parallel_for(of.maps() * portions, [&](std::int64_t task, int) {
        double* sum = sums + task * d;
        for (std::int64_t c = 0; c < d; ++c) sum[c] = 0.0;
        const Rows rows = of.rows<Element>(task / portions);
        const std::int64_t begin = task % portions * kMeanTokens;
        const std::int64_t end = smaller(begin + kMeanTokens, of.tokens);
        for (std::int64_t first = begin; first < end; first += kFloatTokens) {
            alignas(64) float few[kMostChannels] = {};
            for (std::int64_t token = first; token < smaller(first + kFloatTokens, end); ++token) {
                rows.prefetch(token + kAhead, of.tokens, d);
                const Element* x = rows.at(token);
                for (std::int64_t c = 0; c < d; ++c) few[c] += float_of(x[c]);
            }
            for (std::int64_t c = 0; c < d; ++c) sum[c] += static_cast<double>(few[c]);
        }
    });
    for (std::int64_t map = 0; map < of.maps(); ++map) {
        for (std::int64_t c = 0; c < d; ++c) {
            double sum = 0.0;
            for (std::int64_t i = 0; i < portions; ++i) sum += sums[(map * portions + i) * d + c];
            means[map * d + c] = static_cast<float>(sum / static_cast<double>(of.tokens));
        }
    }
}

template <typename Element>
void find_scales_of(const AttentionProblem& problem, const AttentionCall& call) {
    const Int8Arrays& to = call.int8;
    const Operand q = {problem, call.q, call.q_strides, problem.heads, problem.q_len};
    if (problem.q_len > 0 && !to.on_the_way) block_scales<Element>(q, call.q_tokens, to.q_scale);
    if (problem.k_len == 0) return;
    Operand k = {problem, call.k, call.k_strides, problem.kv_heads, problem.k_len};
    Operand v = {problem, call.v, call.v_strides, problem.kv_heads, problem.k_len};
    if (call.smooth_k) channel_means<Element>(k, to.sums, to.k_mean);
    channel_means<Element>(v, to.sums, to.v_mean);
    if (to.on_the_way) return;
    if (call.smooth_k) k.means = to.k_mean;
    v.means = to.v_mean;
    block_scales<Element>(k, call.k_tokens, to.k_scale);
    group_scales<Element>(v, to.v_scale);
}

inline void find_scales(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    if (problem.dtype == DType::f32) {
        find_scales_of<float>(problem, call);
    } else {
        find_scales_of<Bf16Bits>(problem, call);
    }
}

}  // namespace
}  // namespace aerogel
