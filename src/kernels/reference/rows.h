// Where the rows of attention's arrays lie, for the reference kernels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "aerogel/number_types.h"
#include "kernels/attention.h"

namespace aerogel::reference {

/// First element of a row of one map, as AttentionStrides says; `heads` are those of the array's side.
inline std::int64_t row_start(const AttentionStrides& strides, std::int64_t heads, std::int64_t map,
                              std::int64_t row) {
    const std::int64_t token = strides.order == nullptr ? row : strides.order[map][row];
    return map / heads * strides.batch + map % heads / strides.shared * strides.head + token * strides.token;
}

/// Where the log-sum-exp of a row of one map goes.
inline float& lse_at(const AttentionProblem& problem, const AttentionCall& call, std::int64_t map,
                     std::int64_t row) {
    const std::int32_t* const* order = call.o_strides.order;
    return call.lse[map * problem.q_len + (order == nullptr ? row : order[map][row])];
}

/// Elements of f32 or bf16.
inline float load(const void* data, DType dtype, std::int64_t index) {
    if (dtype == DType::f32) return static_cast<const float*>(data)[index];
    return to_float(static_cast<const BFloat16*>(data)[index]);
}
inline void store(void* data, DType dtype, std::int64_t index, float value) {
    if (dtype == DType::f32) {
        static_cast<float*>(data)[index] = value;
    } else {
        static_cast<BFloat16*>(data)[index] = to_bfloat16(value);
    }
}

/// Calls visit(first key, last key) for each range of keys that row `q` of the map sees.
template <typename Visit>
void visit_keys(const AttentionProblem& problem, const MaskRows& mask, std::int64_t map, std::int64_t q,
                const Visit& visit) {
    const std::int64_t seen =
        problem.causal ? std::min(q + problem.k_len - problem.q_len + 1, problem.k_len) : problem.k_len;
    if (mask.row_start == nullptr) {
        visit(std::int64_t{0}, seen);
        return;
    }
    const std::int64_t row = map * problem.q_blocks() + q / problem.block_q;
    for (const std::int32_t* column = mask.first(row); column != mask.last(row); ++column) {
        const std::int64_t first = *column * problem.block_k;
        visit(first, std::min(first + problem.block_k, seen));
    }
}

/// Calls visit(block) for each block of keys that row `q` of the map leaves out, where those have centroids.
template <typename Visit>
void visit_skipped(const AttentionProblem& problem, const MaskRows& mask, std::int64_t map, std::int64_t q,
                   const Visit& visit) {
    if (!problem.centroids) return;
    const std::int64_t row = map * problem.q_blocks() + q / problem.block_q;
    const std::int32_t *next = mask.first(row), *const last = mask.last(row);
    for (std::int64_t block = 0; block < problem.k_blocks(); ++block) {
        if (next != last && *next == block) {
            ++next;
        } else {
            visit(block);
        }
    }
}

/// Keys or values of a call.
struct KeyArray {
    const void* data;
    const AttentionStrides& strides;
};

/// Channel `c` of the mean of a block of keys or values.
inline float mean_of_block(const AttentionProblem& problem, const KeyArray& of, std::int64_t kv_map,
                           std::int64_t block, std::int64_t c) {
    const std::int64_t first = block * problem.block_k, count = problem.keys_of_block(block);
    const float part = 1.0F / static_cast<float>(count);
    float sum = 0.0F;
    for (std::int64_t key = first; key < first + count; ++key) {
        const std::int64_t at = row_start(of.strides, problem.kv_heads, kv_map, key) + c;
        sum += part * load(of.data, problem.dtype, at);
    }
    return sum;
}

/// As AttentionKernel::find_scales.
void int8_scales(const AttentionProblem& problem, const AttentionCall& call) noexcept;

}  // namespace aerogel::reference
