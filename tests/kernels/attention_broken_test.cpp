// Broken kernels, each wrong in exactly one way: the bounds of the conformance test must see every one.
#include <gtest/gtest.h>

#include "kernels/attention_cases.h"
#include "kernels/reference/kernels.h"

namespace aerogel::testing {
namespace {

const AttentionKernel& reference() {
    return reference::kAttention;
}

using RunFunction = void (*)(const AttentionProblem&, const AttentionArgs&) noexcept;

void drops_the_last_key(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionProblem shorter = problem;
    --shorter.k_len;
    reference().run(shorter, args);
}

BlockMask without_last_columns(const BlockMask& mask) {
    BlockMask less = mask;
    less.columns.clear();
    for (std::size_t row = 0; row + 1 < mask.row_start.size(); ++row) {
        for (std::int64_t i = mask.row_start[row]; i + 1 < mask.row_start[row + 1]; ++i)
            less.columns.push_back(mask.columns[static_cast<std::size_t>(i)]);
        less.row_start[row + 1] = static_cast<std::int64_t>(less.columns.size());
    }
    return less;
}

void drops_the_last_column(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    const BlockMask less = without_last_columns(*args.mask);
    AttentionArgs changed = args;
    changed.mask = &less;
    reference().run(problem, changed);
}

void ignores_the_mask(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionArgs changed = args;
    changed.mask = nullptr;
    reference().run(problem, changed);
}

void has_a_wrong_scale(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionArgs changed = args;
    changed.scale *= 1.0F + 1e-3F;
    reference().run(problem, changed);
}

void skips_the_last_query(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionProblem shorter = problem;
    --shorter.q_len;
    reference().run(shorter, args);
}

void swaps_keys_and_values(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionArgs changed = args;
    changed.k = args.v;
    changed.v = args.k;
    reference().run(problem, changed);
}

void gives_heads_the_first_values(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionArgs changed = args;
    changed.v_strides.head = 0;
    reference().run(problem, changed);
}

void drops_the_last_channel(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    AttentionProblem narrower = problem;
    --narrower.head_dim;
    reference().run(narrower, args);
}

void writes_into_the_margin(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
    reference().run(problem, args);
    static_cast<float*>(args.o)[args.o_strides.token - 1] = 0.0F;
}

/// Off by half a unit of bf16, as a kernel with too little precision would be.
void is_imprecise(const AttentionProblem& problem, const AttentionArgs& args) noexcept {
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
