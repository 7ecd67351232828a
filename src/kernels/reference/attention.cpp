// One query row at a time: scores, largest score, weights, weighted sum of values, all in double.
// Rows are independent tasks, so the result cannot depend on the number of threads.
#include "kernels/reference/kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "kernels/attention_rounding.h"
#include "kernels/reference/rows.h"

namespace aerogel::reference {
namespace {

void one_row(const AttentionProblem& problem, const AttentionCall& call, std::int64_t map, std::int64_t q,
             double* scratch) {
    double* scores = scratch;
    double* centroids = scratch + problem.k_len;  // their scores
    double* sums = centroids + (problem.centroids ? problem.k_blocks() : 0);
    const std::int64_t d = problem.head_dim, kv_map = map / problem.group();
    const std::int64_t query = row_start(call.q_strides, problem.heads, map, q);
    const std::int64_t out = row_start(call.o_strides, problem.heads, map, q);
    const auto value = [&](const void* data, std::int64_t at) {
        return static_cast<double>(load(data, problem.dtype, at));
    };
    const float* bias = problem.biased
                            ? call.bias + map % problem.heads * problem.distances() + problem.q_len - 1 - q
                            : nullptr;
    double largest = -std::numeric_limits<double>::infinity();
    visit_keys(problem, call.mask, map, q, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t key = first; key < last; ++key) {
            const std::int64_t at = row_start(call.k_strides, problem.kv_heads, kv_map, key);
            double score = 0.0;
            for (std::int64_t i = 0; i < d; ++i) score += value(call.q, query + i) * value(call.k, at + i);
            scores[key] = score * static_cast<double>(call.scale);
            if (bias != nullptr) scores[key] += static_cast<double>(bias[key]);
            largest = std::max(largest, scores[key]);
        }
    });
    visit_skipped(problem, call.mask, map, q, [&](std::int64_t block) {
        double score = 0.0;
        for (std::int64_t i = 0; i < d; ++i)
            score += value(call.q, query + i) *
                     static_cast<double>(mean_of_block(problem, {call.k, call.k_strides}, kv_map, block, i));
        centroids[block] = score * static_cast<double>(call.scale) +
                           std::log(static_cast<double>(problem.keys_of_block(block)));
        largest = std::max(largest, centroids[block]);
    });
    std::fill_n(sums, d, 0.0);
    double weights = 0.0;
    bool empty = true;
    visit_keys(problem, call.mask, map, q, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t key = first; key < last; ++key) {
            const double weight = std::exp(scores[key] - largest);
            weights += weight;
            empty = false;
            const std::int64_t at = row_start(call.v_strides, problem.kv_heads, kv_map, key);
            for (std::int64_t i = 0; i < d; ++i) sums[i] += weight * value(call.v, at + i);
        }
    });
    visit_skipped(problem, call.mask, map, q, [&](std::int64_t block) {
        const double weight = std::exp(centroids[block] - largest);
        weights += weight;
        empty = false;
        for (std::int64_t i = 0; i < d; ++i)
            sums[i] += weight * static_cast<double>(
                                    mean_of_block(problem, {call.v, call.v_strides}, kv_map, block, i));
    });
    for (std::int64_t i = 0; i < d; ++i)
        store(call.o, problem.dtype, out + i, empty ? 0.0F : static_cast<float>(sums[i] / weights));
    if (problem.wants_lse) lse_at(problem, call, map, q) = static_cast<float>(largest + std::log(weights));
}

std::int64_t doubles_per_thread(const AttentionProblem& problem) {
    const std::int64_t centroids = problem.centroids ? problem.k_blocks() : 0;
    return (problem.k_len + centroids + problem.head_dim + 7) / 8 * 8;
}

std::size_t attention_workspace(const AttentionProblem& problem) {
    return static_cast<std::size_t>(doubles_per_thread(problem) * num_threads()) * sizeof(double);
}

void attention(const AttentionProblem& problem, const AttentionCall& call) noexcept {
    const std::int64_t rows = problem.maps() * problem.q_len;
    parallel_for(rows, [&](std::int64_t row, int worker) {
        one_row(problem, call, row / problem.q_len, row % problem.q_len,
                reinterpret_cast<double*>(call.workspace) + worker * doubles_per_thread(problem));
    });
}

}  // namespace

constexpr AttentionKernel kAttention = {.name = "reference.attention",
                                        .formats = kFloatFormats,
                                        .why_not = takes_all,
                                        .workspace_bytes = attention_workspace,
                                        .run = attention};

constexpr AttentionKernel kRoundedAttention = rounding_kernel<&kAttention>("reference.rounded_attention");

}  // namespace aerogel::reference
