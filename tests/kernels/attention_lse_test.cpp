// The log-sum-exp that attention kernels give lies by token, whatever the order of the rows, and its bounds
// see broken kernels. That it is right the tests of each format say, over all problems.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/attention_cases.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

/// `plain` [maps, q_len] is by row: row r of map m is token order[m][r].
std::vector<float> by_token(const std::vector<float>& plain, const AttentionData& data) {
    const std::int64_t q_len = data.test_case.problem.q_len;
    std::vector<float> tokens(plain.size());
    for (std::size_t i = 0; i < plain.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i);
        const std::int64_t map = row / q_len;
        tokens[static_cast<std::size_t>(map * q_len + data.q.strides.order[map][row % q_len])] = plain[i];
    }
    return tokens;
}

TEST(AttentionLse, LiesByTokenWhateverTheOrderOfTheRows) {
    using enum AttentionFormat;
    for (const char* line : {"heads=4 kv_heads=2 batch=2 q_len=100 k_len=170 head_dim=40 layout=bsnd",
                             "heads=2 q_len=129 k_len=200 head_dim=80 mask=16x128 density=0.5 dtype=bf16"}) {
        const AttentionCase test_case = parse_attention_case(line);
        for (const AttentionFormat format : {none, int8, fp8, mxfp4}) {
            AttentionData arrays(test_case);
            QuantizedData data(arrays, Scales::per_token);
            AttentionProblem problem = test_case.problem;
            problem.format = format;
            const auto call = [&] { return format == int8 ? data.call() : call_of(arrays); };
            std::vector<std::vector<float>> expected;
            for (const AttentionKernel& kernel : kernels_for(problem))
                expected.push_back(run_for_lse(kernel, arrays, problem, call()));
            const ShuffledTokens shuffled(arrays);
            std::size_t next = 0;
            for (const AttentionKernel& kernel : kernels_for(problem))
                EXPECT_EQ(run_for_lse(kernel, arrays, problem, call()), by_token(expected[next++], arrays))
                    << kernel.name << " " << line;
        }
    }
}

using RunFunction = void (*)(const AttentionProblem&, const AttentionCall&) noexcept;

/// The base of the logarithm is 2.
void counts_in_powers_of_two(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    reference_of(problem.format).run(problem, args);
    for (std::int64_t i = 0; i < problem.maps() * problem.q_len; ++i) args.lse[i] *= 1.44269504F;
}

void forgets_the_largest(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    reference_of(problem.format).run(problem, args);
    for (std::int64_t i = 0; i < problem.maps() * problem.q_len; ++i)
        args.lse[i] = std::fmod(args.lse[i], 1.0F);
}

void drops_the_last_key(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionProblem shorter = problem;
    --shorter.k_len;
    reference_of(problem.format).run(shorter, args);
}

TEST(AttentionLse, BrokenKernelsAreCaught) {
    const AttentionCase test_case = parse_attention_case("heads=2 q_len=33 k_len=200 head_dim=64");
    const AttentionData data(test_case);
    AttentionKernel kernel = reference_of(AttentionFormat::none);
    const auto check = [&] {
        return compare_lse(data, run_for_lse(kernel, data, test_case.problem, call_of(data)));
    };
    EXPECT_EQ(check(), "");
    for (const RunFunction run : {counts_in_powers_of_two, forgets_the_largest, drops_the_last_key}) {
        kernel.run = run;
        EXPECT_NE(check(), "");
    }
}

}  // namespace
}  // namespace aerogel::testing
