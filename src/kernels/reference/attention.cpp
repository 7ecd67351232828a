// One query row at a time: scores, largest score, weights, weighted sum of values, all in double.
// Rows are independent tasks, so the result cannot depend on the number of threads.
#include "kernels/reference/kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "aerogel/number_types.h"
#include "aerogel/threads.h"
#include "base/thread_pool.h"
#include "kernels/reference/rows.h"

namespace aerogel::reference {
namespace {

double load(const void* data, DType dtype, std::int64_t index) {
    if (dtype == DType::f32) return static_cast<const float*>(data)[index];
    return to_float(static_cast<const BFloat16*>(data)[index]);
}

void store(void* data, DType dtype, std::int64_t index, double value) {
    if (dtype == DType::f32) {
        static_cast<float*>(data)[index] = static_cast<float>(value);
    } else {
        static_cast<BFloat16*>(data)[index] = to_bfloat16(static_cast<float>(value));
    }
}

/// Calls visit(first_key, last_key) for each range of keys that row `q` of the map sees.
template <typename Visit>
void visit_keys(const AttentionProblem& problem, const BlockMask* mask, std::int64_t map, std::int64_t q,
                const Visit& visit) {
    const std::int64_t seen =
        problem.causal ? std::min(q + problem.k_len - problem.q_len + 1, problem.k_len) : problem.k_len;
    if (mask == nullptr) {
        visit(std::int64_t{0}, seen);
        return;
    }
    const auto row = static_cast<std::size_t>(map * mask->q_blocks() + q / mask->block_q);
    for (std::int64_t i = mask->row_start[row]; i < mask->row_start[row + 1]; ++i) {
        const std::int64_t first = mask->columns[static_cast<std::size_t>(i)] * mask->block_k;
        visit(first, std::min(first + mask->block_k, seen));
    }
}

void one_row(const AttentionProblem& problem, const AttentionArgs& args, std::int64_t map, std::int64_t q,
             double* scratch) {
    double* scores = scratch;
    double* sums = scratch + problem.k_len;
    const std::int64_t d = problem.head_dim;
    const std::int64_t query = row_start(problem, args.q_strides, map, q);
    const std::int64_t out = row_start(problem, args.o_strides, map, q);
    double largest = -std::numeric_limits<double>::infinity();
    visit_keys(problem, args.mask, map, q, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t key = first; key < last; ++key) {
            const std::int64_t at = row_start(problem, args.k_strides, map, key);
            double score = 0.0;
            for (std::int64_t i = 0; i < d; ++i)
                score += load(args.q, problem.dtype, query + i) * load(args.k, problem.dtype, at + i);
            scores[key] = score * static_cast<double>(args.scale);
            largest = std::max(largest, scores[key]);
        }
    });
    std::fill_n(sums, d, 0.0);
    double weights = 0.0;
    bool empty = true;
    visit_keys(problem, args.mask, map, q, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t key = first; key < last; ++key) {
            const double weight = std::exp(scores[key] - largest);
            weights += weight;
            empty = false;
            const std::int64_t at = row_start(problem, args.v_strides, map, key);
            for (std::int64_t i = 0; i < d; ++i) sums[i] += weight * load(args.v, problem.dtype, at + i);
        }
    });
    for (std::int64_t i = 0; i < d; ++i)
        store(args.o, problem.dtype, out + i, empty ? 0.0 : sums[i] / weights);
}

std::int64_t doubles_per_thread(const AttentionProblem& problem) {
    return (problem.k_len + problem.head_dim + 7) / 8 * 8;
}

std::string takes_all(const AttentionProblem&) {
    return {};
}

std::size_t attention_workspace(const AttentionProblem& problem) {
    return static_cast<std::size_t>(doubles_per_thread(problem) * num_threads()) * sizeof(double);
}

void attention(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    const std::int64_t rows = problem.batch * problem.heads * problem.q_len;
    parallel_for(rows, [&](std::int64_t row, int worker) {
        one_row(problem, args, row / problem.q_len, row % problem.q_len,
                reinterpret_cast<double*>(args.workspace) + worker * doubles_per_thread(problem));
    });
}

}  // namespace

constexpr AttentionKernel kAttention = {"reference.attention", takes_all, attention_workspace, attention};

}  // namespace aerogel::reference
