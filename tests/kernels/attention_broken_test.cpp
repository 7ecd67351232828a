// Broken kernels, each wrong in exactly one way: the bounds of the conformance test must see every one.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/attention_cases.h"

namespace aerogel::testing {
namespace {

const AttentionKernel& reference() {
    return reference_of(AttentionFormat::none);
}

using RunFunction = void (*)(const AttentionProblem&, const AttentionCall&) noexcept;

void drops_the_last_key(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionProblem shorter = problem;
    --shorter.k_len;
    reference().run(shorter, args);
}

void drops_the_last_column(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    std::vector<std::int64_t> row_start = {0};
    std::vector<std::int32_t> columns;
    for (std::int64_t row = 0; row < problem.maps() * problem.q_blocks(); ++row) {
        for (std::int64_t i = args.mask.row_start[row]; i + 1 < args.mask.row_start[row + 1]; ++i)
            columns.push_back(args.mask.columns[i]);
        row_start.push_back(static_cast<std::int64_t>(columns.size()));
    }
    AttentionCall changed = args;
    changed.mask = {row_start.data(), columns.data()};
    reference().run(problem, changed);
}

void ignores_the_mask(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionCall changed = args;
    changed.mask = {};
    reference().run(problem, changed);
}

void has_a_wrong_scale(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionCall changed = args;
    changed.scale *= 1.0F + 1e-3F;
    reference().run(problem, changed);
}

void skips_the_last_query(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionProblem shorter = problem;
    --shorter.q_len;
    reference().run(shorter, args);
}

void swaps_keys_and_values(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionCall changed = args;
    changed.k = args.v;
    changed.v = args.k;
    reference().run(problem, changed);
}

void gives_heads_the_first_values(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionCall changed = args;
    changed.v_strides.head = 0;
    reference().run(problem, changed);
}

/// As if heads h and h + kv_heads shared their keys.
void deals_heads_in_turn(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    for (std::int64_t head = 0; head < problem.heads; ++head) {
        AttentionProblem one = problem;
        one.heads = one.kv_heads = 1;
        AttentionCall changed = args;
        changed.q = static_cast<const float*>(args.q) + head * args.q_strides.head;
        changed.o = static_cast<float*>(args.o) + head * args.o_strides.head;
        changed.k = static_cast<const float*>(args.k) + head % problem.kv_heads * args.k_strides.head;
        changed.v = static_cast<const float*>(args.v) + head % problem.kv_heads * args.v_strides.head;
        reference().run(one, changed);
    }
}

void drops_the_last_channel(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionProblem narrower = problem;
    --narrower.head_dim;
    reference().run(narrower, args);
}

void writes_into_the_margin(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    reference().run(problem, args);
    static_cast<float*>(args.o)[args.o_strides.token - 1] = 0.0F;
}

/// Off by half a unit of bf16, as a kernel with too little precision would be.
void is_imprecise(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    reference().run(problem, args);
    for (std::int64_t query = 0; query < problem.q_len; ++query) {
        float* o = static_cast<float*>(args.o) + query * args.o_strides.token;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) o[d] *= 1.0F + 0x1p-9F;
    }
}

TEST(AttentionBounds, BrokenKernelsAreCaught) {
    struct Broken {
        const char* name;
        RunFunction run;
        const char* line;
    };
    for (const Broken& broken : {
             Broken{"last key", drops_the_last_key, "heads=1 q_len=200 k_len=513 head_dim=128"},
             Broken{"last key, identical", drops_the_last_key,
                    "q_len=33 k_len=200 head_dim=64 values=identical"},
             Broken{"last key, bf16", drops_the_last_key, "q_len=33 k_len=129 head_dim=64 dtype=bf16"},
             Broken{"last key, denormal", drops_the_last_key,
                    "q_len=33 k_len=200 head_dim=64 values=denormal"},
             Broken{"last column", drops_the_last_column,
                    "heads=2 q_len=200 k_len=527 head_dim=64 mask=64x64 density=0.3"},
             Broken{"last column, large", drops_the_last_column,
                    "heads=2 q_len=200 k_len=527 head_dim=64 mask=64x64 density=0.3 values=large"},
             Broken{"no mask", ignores_the_mask,
                    "heads=1 q_len=300 k_len=601 head_dim=64 mask=24x40 density=0.3"},
             Broken{"empty rows", ignores_the_mask, "q_len=64 k_len=200 head_dim=64 mask=16x16 density=0"},
             Broken{"scale", has_a_wrong_scale, "heads=2 q_len=129 k_len=127 head_dim=80"},
             Broken{"k and v, large", swaps_keys_and_values,
                    "heads=2 q_len=129 k_len=700 head_dim=128 values=large"},
             Broken{"last query", skips_the_last_query, "heads=2 q_len=33 k_len=7 head_dim=40 layout=bsnd"},
             Broken{"k and v", swaps_keys_and_values, "heads=2 q_len=33 k_len=7 head_dim=40"},
             Broken{"head stride", gives_heads_the_first_values,
                    "heads=2 q_len=33 k_len=7 head_dim=40 layout=bsnd"},
             Broken{"groups", deals_heads_in_turn, "heads=4 kv_heads=2 q_len=33 k_len=7 head_dim=40"},
             Broken{"last channel", drops_the_last_channel, "heads=2 q_len=33 k_len=7 head_dim=33"},
             Broken{"margin", writes_into_the_margin, "q_len=33 k_len=7 head_dim=40"},
             Broken{"precision", is_imprecise, "q_len=33 k_len=300 head_dim=64"},
         }) {
        const AttentionCase test_case = parse_attention_case(broken.line);
        const AttentionData data(test_case);
        AttentionKernel kernel = reference();
        EXPECT_EQ(compare(data, run_attention(kernel, data)), "") << broken.name;
        kernel.run = broken.run;
        EXPECT_NE(compare(data, run_attention(kernel, data)), "") << broken.name;
    }
}

}  // namespace
}  // namespace aerogel::testing
