// Attention with the centroids of skipped blocks. Where every key and value of a skipped block is the block's
// mean, dense attention gives the same: that is the oracle, one row of query blocks at a time. And the same
// bits for any order of the tokens, any number of threads, and as without centroids where nothing is skipped.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "aerogel/threads.h"
#include "kernels/attention_cases.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

constexpr const char* kLines[] = {
    "heads=2 q_len=100 k_len=333 head_dim=40 mask=32x48 density=0.4",
    "heads=2 kv_heads=1 q_len=130 k_len=257 head_dim=64 mask=64x16 density=0.1 layout=bsnd",
    "heads=1 batch=2 q_len=65 k_len=70 head_dim=33 mask=16x17 density=0.5 fill=empty_rows",
    "heads=1 q_len=40 k_len=2100 head_dim=16 mask=32x16 density=0.2",
    "heads=2 q_len=130 k_len=300 head_dim=128 mask=128x64 density=0.3 dtype=bf16",
    "heads=4 kv_heads=2 q_len=70 k_len=333 head_dim=40 mask=32x24 density=0.2 dtype=bf16 fill=empty_rows"};

AttentionProblem with_centroids(const AttentionCase& test_case, AttentionFormat format) {
    AttentionProblem problem = test_case.problem;
    problem.centroids = true;
    problem.format = format;
    return problem;
}

std::size_t at(std::int64_t index) {
    return static_cast<std::size_t>(index);
}

/// Whether a row of query blocks of a map keeps a block of keys.
bool keeps(const BlockMask& mask, std::int64_t row, std::int64_t block) {
    const auto* first = mask.columns.data() + mask.row_start[at(row)];
    const auto* last = mask.columns.data() + mask.row_start[at(row + 1)];
    return std::find(first, last, block) != last;
}

/// A row of query blocks, counted over all maps.
struct BlockRow {
    const AttentionData& data;
    std::int64_t row;
};

/// Keys or values as the row sees them, into the only map of `to`, an array of `dense`.
void copy_with_means(const BlockRow& of, const PaddedArray& from, const AttentionData& dense,
                     PaddedArray& to) {
    const auto& [data, row] = of;
    const AttentionProblem& p = data.test_case.problem;
    const std::int64_t map = row / p.q_blocks();
    const auto value = [&](std::int64_t key, std::int64_t d) {
        return from.get(data.kv_index(from.strides, map / p.group(), key) + d);
    };
    for (std::int64_t key = 0; key < p.k_len; ++key) {
        const std::int64_t first = key / p.block_k * p.block_k, last = std::min(first + p.block_k, p.k_len);
        const bool kept = keeps(data.test_case.mask, row, key / p.block_k);
        for (std::int64_t d = 0; d < p.head_dim; ++d) {
            double mean = kept ? value(key, d) : 0.0;
            for (std::int64_t i = first; !kept && i < last; ++i)
                mean += value(i, d) / static_cast<double>(last - first);
            to.set(dense.kv_index(to.strides, 0, key) + d, mean);
        }
    }
}

/// What centroids give, and the log-sum-exp of every row.
struct Expected {
    std::vector<double> o, lse;
};

Expected expected_of(const AttentionData& data) {
    const AttentionProblem& p = data.test_case.problem;
    Expected expected;
    for (std::int64_t row = 0; row < p.maps() * p.q_blocks(); ++row) {
        const std::int64_t map = row / p.q_blocks(), first = row % p.q_blocks() * p.block_q;
        AttentionCase dense;
        dense.problem.q_len = std::min(p.block_q, p.q_len - first);
        dense.problem.k_len = p.k_len;
        dense.problem.head_dim = p.head_dim;
        AttentionData means(dense);
        for (std::int64_t i = 0; i < dense.problem.q_len; ++i)
            for (std::int64_t d = 0; d < p.head_dim; ++d)
                means.q.set(means.index(means.q.strides, 0, i) + d,
                            data.q.get(data.index(data.q.strides, map, first + i) + d));
        copy_with_means({data, row}, data.k, means, means.k);
        copy_with_means({data, row}, data.v, means, means.v);
        means.solve();
        expected.o.insert(expected.o.end(), means.exact.begin(), means.exact.end());
        expected.lse.insert(expected.lse.end(), means.lse.begin(), means.lse.end());
    }
    return expected;
}

double largest_difference(const AttentionData& data, const PaddedArray& o,
                          const std::vector<double>& expected) {
    const AttentionProblem& p = data.test_case.problem;
    double largest = 0.0;
    for (std::int64_t i = 0; i < static_cast<std::int64_t>(expected.size()); ++i) {
        const std::int64_t row = i / p.head_dim;
        const double got = o.get(data.index(o.strides, row / p.q_len, row % p.q_len) + i % p.head_dim);
        const double off = std::fabs(got - expected[at(i)]);
        largest = off <= largest ? largest : off;  // NaN stays
    }
    return largest;
}

std::vector<double> values_of(const AttentionData& data, const PaddedArray& o) {
    const AttentionProblem& p = data.test_case.problem;
    std::vector<double> values;
    for (std::int64_t i = 0; i < p.maps() * p.q_len * p.head_dim; ++i) {
        const std::int64_t row = i / p.head_dim;
        values.push_back(o.get(data.index(o.strides, row / p.q_len, row % p.q_len) + i % p.head_dim));
    }
    return values;
}

/// Outputs are averages of normal numbers, so their differences are relative to about 1.
TEST(Centroids, FloatKernels) {
    for (const char* line : kLines) {
        const AttentionCase test_case = parse_attention_case(line);
        const AttentionData data(test_case);
        const AttentionProblem problem = with_centroids(test_case, AttentionFormat::none);
        const Expected expected = expected_of(data);
        const bool bf16 = problem.dtype == DType::bf16;
        const PaddedArray without = run_attention(reference_of(AttentionFormat::none), data);
        EXPECT_GT(largest_difference(data, without, expected.o), 0.1) << "means change nothing: " << line;
        for (const AttentionKernel& kernel : kernels_for(problem)) {
            PaddedArray o;
            const auto lse = run_for_lse(kernel, data, problem, call_of(data), &o);
            EXPECT_LT(largest_difference(data, o, expected.o), bf16 ? 0.02 : 2e-6)
                << kernel.name << " " << line;
            for (std::size_t i = 0; i < lse.size(); ++i)
                ASSERT_NEAR(lse[i], expected.lse[i], kernel.rounds_weights ? 0.005 : 1e-5)
                    << kernel.name << " row " << i << " " << line;
        }
    }
}

TEST(Centroids, Int8Kernels) {
    for (const char* line : kLines) {
        const AttentionCase test_case = parse_attention_case(line);
        AttentionData arrays(test_case);
        const Expected expected = expected_of(arrays);
        QuantizedData data(arrays, Scales::per_token);
        data.problem.centroids = true;
        const PaddedArray reference = run_attention(reference_of(AttentionFormat::int8), data);
        EXPECT_LT(largest_difference(arrays, reference, expected.o), 0.06) << line;
        for (const AttentionKernel& kernel : kernels_for(data.problem)) {
            const double weight_step = 1.0 / static_cast<double>(kernel.largest_weight);
            EXPECT_LT(largest_difference(arrays, run_attention(kernel, data), values_of(arrays, reference)),
                      kernel.largest_weight == kWideWeight ? 0.004 : 2.0 * weight_step)
                << kernel.name << " " << line;
        }
    }
}

TEST(Centroids, RoundingFormatsUseTheMeansOfWhatTheyRound) {
    const AttentionCase test_case = parse_attention_case(kLines[0]);
    const AttentionData data(test_case);
    const Expected expected = expected_of(data);
    const AttentionProblem problem = with_centroids(test_case, AttentionFormat::mix);
    for (const AttentionKernel& kernel : kernels_for(problem)) {
        AttentionCall call = call_of(data);
        call.q_tokens = call.k_tokens = 64;
        EXPECT_LT(largest_difference(data, run_attention(kernel, data, problem, call), expected.o), 0.1)
            << kernel.name;
    }
}

TEST(Centroids, SameBitsForAnyOrderAndThreadsAndForAFullMask) {
    const int before = num_threads();
    for (const char* line : {kLines[1], kLines[4]}) {
        for (const AttentionFormat format : {AttentionFormat::none, AttentionFormat::int8}) {
            const AttentionCase test_case = parse_attention_case(line);
            const AttentionCase full = parse_attention_case(line + std::string(" fill=full"));
            AttentionData data(test_case), full_data(full);
            QuantizedData ints(data, Scales::per_token), full_ints(full_data, Scales::per_token);
            const auto run = [&](const AttentionKernel& kernel, QuantizedData& of, bool centroids) {
                AttentionProblem problem = with_centroids(of.data.test_case, format);
                problem.centroids = centroids;
                AttentionCall call = format == AttentionFormat::int8 ? of.call() : call_of(of.data);
                return run_attention(kernel, of.data, problem, call);
            };
            for (const AttentionKernel& kernel : kernels_for(with_centroids(test_case, format))) {
                set_num_threads(1);
                const PaddedArray one = run(kernel, ints, true);
                set_num_threads(3);
                EXPECT_EQ(run(kernel, ints, true).bytes, one.bytes) << kernel.name << " " << line;
                EXPECT_EQ(run(kernel, full_ints, true).bytes, run(kernel, full_ints, false).bytes)
                    << kernel.name << " " << line;
                if (format == AttentionFormat::int8) continue;
                AttentionData shuffled_data(test_case);
                const ShuffledTokens shuffled(shuffled_data);
                const AttentionProblem problem = with_centroids(test_case, format);
                EXPECT_EQ(
                    shuffled.undone(run_attention(kernel, shuffled_data, problem, call_of(shuffled_data)))
                        .bytes,
                    one.bytes)
                    << kernel.name << " " << line;
            }
        }
    }
    set_num_threads(before);
}

}  // namespace
}  // namespace aerogel::testing
