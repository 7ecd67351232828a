// Every attention kernel of this CPU level against the exact result, within bounds computed from the data;
// NaN and infinities; the same bits for any number of threads.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aerogel/threads.h"
#include "kernels/attention_cases.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

TEST(AttentionKernels, TheReferenceComesLastAndTakesAll) {
    using enum AttentionFormat;
    const auto rows = cpu::kMachine.attention;
    for (const AttentionFormatRow& row : kAttentionFormats) {
        AttentionProblem problem;
        problem.format = row.format;
        const AttentionKernel* last = nullptr;
        for (const auto& listed : rows)
            if (listed.kernel->is_for(problem)) last = listed.kernel;
        EXPECT_EQ(last, &reference_of(row.format)) << row.name;
        EXPECT_TRUE(last->name.starts_with("reference.")) << row.name;
    }
    std::vector<AttentionCase> cases = attention_cases();
    for (AttentionCase& test_case : cases) {
        for (const AttentionFormatRow& row : kAttentionFormats) {
            test_case.problem.format = row.format;
            const auto& [causal, biased] = std::pair(test_case.problem.causal, test_case.problem.biased);
            const bool possible = row.format == none || (!biased && !(causal && row.format == int8));
            EXPECT_EQ(reference_of(row.format).why_not(test_case.problem).empty(), possible) << row.name;
        }
    }
}

TEST(AttentionKernels, AllProblemsWithinBounds) {
    const auto cases = attention_cases();
    ASSERT_GT(cases.size(), takes_time() ? 20U : 40U);
    for (const AttentionCase& test_case : cases) {
        const AttentionData data(test_case);
        for (const AttentionKernel& kernel : kernels_for(test_case.problem)) {
            PaddedArray o;
            const auto lse = run_for_lse(kernel, data, test_case.problem, call_of(data), &o);
            EXPECT_EQ(compare(data, o, kernel.rounds_weights), "") << kernel.name;
            EXPECT_EQ(compare_lse(data, lse), "") << kernel.name;
        }
    }
}

/// Two keys, of which one has the weight e^x / (1 + e^x): the exponential of a kernel, alone. The bounds of
/// AllProblemsWithinBounds grow with the sizes, and would hide errors of tens of units.
std::string wrong_weight(const AttentionKernel& kernel) {
    constexpr std::int64_t kRows = 4096;
    const AttentionCase test_case =
        parse_attention_case("q_len=" + std::to_string(kRows) + " k_len=2 head_dim=1");
    AttentionData data(test_case);
    for (std::int64_t i = 0; i < kRows; ++i)
        data.q.set(data.index(data.q.strides, 0, i), -2.0 * static_cast<double>(i) / kRows);
    for (std::int64_t key = 0; key < 2; ++key) {
        data.k.set(data.kv_index(data.k.strides, 0, key), static_cast<double>(key));
        data.v.set(data.kv_index(data.v.strides, 0, key), static_cast<double>(key));
    }
    const PaddedArray o = run_attention(kernel, data);
    for (std::int64_t i = 0; i < kRows; ++i) {
        const double x = data.q.get(data.index(data.q.strides, 0, i)), power = std::exp(x);
        const double weight = power / (1.0 + power), got = o.get(data.index(o.strides, 0, i));
        // 2^y within 3.3 units, of a y that is rounded twice; the sum, its inverse and the product.
        const double units = (3.3 + 2.0 * std::fabs(x)) / (1.0 + power) + 3.0;
        if (!(std::fabs(got - weight) <= units * 0x1p-24 * weight))
            return "x " + std::to_string(x) + ", units " + std::to_string((got - weight) / weight * 0x1p24);
    }
    return "";
}

TEST(AttentionKernels, WeightsWithinAFewUnits) {
    const AttentionProblem problem = parse_attention_case("q_len=4096 k_len=2 head_dim=1").problem;
    for (const AttentionKernel& kernel : kernels_for(problem)) {
        if (kernel.rounds_weights) continue;
        EXPECT_EQ(wrong_weight(kernel), "") << kernel.name;
    }
}

TEST(AttentionKernels, TokensInAnyOrderGiveTheSameBits) {
    for (const AttentionCase& test_case : attention_cases()) {
        AttentionData data(test_case);
        std::vector<PaddedArray> expected;
        for (const AttentionKernel& kernel : kernels_for(test_case.problem))
            expected.push_back(run_attention(kernel, data));
        const ShuffledTokens shuffled(data);
        std::size_t next = 0;
        for (const AttentionKernel& kernel : kernels_for(test_case.problem))
            EXPECT_EQ(shuffled.undone(run_attention(kernel, data)).bytes, expected[next++].bytes)
                << kernel.name << " " << test_case.line;
    }
}

TEST(AttentionKernels, SameBitsForAnyNumberOfThreads) {
    const int before = num_threads();
    for (const char* line :
         {"heads=3 batch=2 q_len=200 k_len=513 head_dim=40",
          "heads=6 kv_heads=2 q_len=200 k_len=513 head_dim=40", "heads=2 q_len=700 k_len=300 head_dim=64",
          "heads=2 q_len=300 k_len=527 head_dim=64 mask=64x32 density=0.3",
          "heads=2 q_len=300 k_len=527 head_dim=80 mask=64x48 density=0.3 dtype=bf16"}) {
        const AttentionCase test_case = parse_attention_case(line);
        const AttentionData data(test_case);
        for (const AttentionKernel& kernel : kernels_for(test_case.problem)) {
            set_num_threads(1);
            const PaddedArray one = run_attention(kernel, data);
            for (const int threads : {2, 3, 5}) {
                set_num_threads(threads);
                EXPECT_EQ(run_attention(kernel, data).bytes, one.bytes)
                    << kernel.name << " " << threads << " " << line;
            }
        }
    }
    set_num_threads(before);
}

TEST(AttentionKernels, AFullMaskGivesTheBitsOfDenseAttention) {
    for (const std::string line :
         {"heads=2 q_len=200 k_len=601 head_dim=64", "q_len=33 k_len=300 head_dim=80 dtype=bf16"}) {
        const AttentionCase dense = parse_attention_case(line);
        const AttentionData data(dense);
        for (const char* mask :
             {" mask=64x64 fill=full", " mask=24x40 fill=full", " mask=200x128 fill=full"}) {
            const AttentionCase full = parse_attention_case(line + mask);
            const AttentionData masked(full);
            for (const AttentionKernel& kernel : kernels_for(dense.problem))
                EXPECT_EQ(run_attention(kernel, masked).bytes, run_attention(kernel, data).bytes)
                    << kernel.name << mask;
        }
    }
}

TEST(AttentionKernels, ANaNInAQueryStaysInItsRow) {
    for (const char* dtype : {"f32", "bf16"}) {
        SCOPED_TRACE(dtype);
        const AttentionCase test_case =
            parse_attention_case(std::string("heads=2 q_len=129 k_len=300 head_dim=40 dtype=") + dtype);
        AttentionData data(test_case);
        for (const AttentionKernel& kernel : kernels_for(test_case.problem)) {
            PaddedArray want = run_attention(kernel, data);
            const PaddedArray q = data.q;
            data.q.set(data.index(q.strides, 1, 77) + 39, std::numeric_limits<double>::quiet_NaN());
            PaddedArray got = run_attention(kernel, data);
            const std::int64_t row = data.index(got.strides, 1, 77);
            for (std::int64_t d = 0; d < 40; ++d) {
                EXPECT_TRUE(std::isnan(got.get(row + d))) << kernel.name;
                got.set(row + d, 0.0);
                want.set(row + d, 0.0);
            }
            EXPECT_EQ(got.bytes, want.bytes) << kernel.name;
            data.q = q;
        }
    }
}

TEST(AttentionKernels, ANaNInAKeyOrValueReachesTheRowsThatSeeIt) {
    for (const char* dtype : {"f32", "bf16"}) {
        SCOPED_TRACE(dtype);
        AttentionCase test_case = parse_attention_case(
            std::string("q_len=96 k_len=101 head_dim=40 mask=32x20 fill=full dtype=") + dtype);
        test_case.mask.row_start = {0, 2, 4, 6};
        test_case.mask.columns = {0, 1, 1,
                                  2, 4, 5};  // the 20 keys of block 2 are seen by queries 32..63 only
        for (const bool in_values : {false, true}) {
            for (const std::int64_t key : {40, 47, 59}) {
                AttentionData data(test_case);
                PaddedArray& array = in_values ? data.v : data.k;
                array.set(data.kv_index(array.strides, 0, key) + 5, std::numeric_limits<double>::quiet_NaN());
                for (const AttentionKernel& kernel : kernels_for(test_case.problem)) {
                    const PaddedArray o = run_attention(kernel, data);
                    for (std::int64_t query = 0; query < 96; ++query) {
                        const bool seen = query / 32 == 1;
                        for (std::int64_t d = 0; d < 40; ++d)
                            EXPECT_EQ(std::isnan(o.get(data.index(o.strides, 0, query) + d)),
                                      seen && (!in_values || d == 5))
                                << kernel.name << " key " << key << " query " << query << " channel " << d;
                    }
                }
            }
        }
    }
}

TEST(AttentionKernels, ANaNInALaterValueStaysInTheTile) {
    for (const char* dtype : {"f32", "bf16"}) {
        const LaterNaN later(dtype);
        for (const AttentionKernel& kernel : kernels_for(later.test_case.problem))
            EXPECT_EQ(later.compare(run_attention(kernel, later.data)), "") << kernel.name << " " << dtype;
    }
}

TEST(AttentionKernels, ARowWithoutKeysIsZeroWhateverVHolds) {
    for (const char* dtype : {"f32", "bf16"}) {
        const AttentionCase test_case =
            parse_attention_case(std::string("q_len=200 k_len=77 head_dim=32 causal=yes dtype=") + dtype);
        AttentionData data(test_case);
        data.v.set(data.kv_index(data.v.strides, 0, 0), std::numeric_limits<double>::quiet_NaN());
        for (const AttentionKernel& kernel : kernels_for(test_case.problem)) {
            const PaddedArray o = run_attention(kernel, data);
            for (std::int64_t query = 0; query < 200 - 77; ++query)
                EXPECT_EQ(o.get(data.index(o.strides, 0, query)), 0.0)
                    << kernel.name << " " << dtype << " query " << query;
        }
    }
}

TEST(AttentionKernels, InfiniteScores) {
    for (const char* dtype : {"f32", "bf16"}) {
        SCOPED_TRACE(dtype);
        const double infinity = std::numeric_limits<double>::infinity();
        const AttentionCase test_case =
            parse_attention_case(std::string("q_len=3 k_len=600 head_dim=32 dtype=") + dtype);
        AttentionData data(test_case);
        for (std::int64_t query = 0; query < 3; ++query)
            data.q.set(data.index(data.q.strides, 0, query), query == 1 ? -1.0 : 1.0);
        for (std::int64_t key = 0; key < 300; ++key)
            data.k.set(data.kv_index(data.k.strides, 0, key), -infinity);
        data.solve();  // queries 0 and 2 see keys 300.. only, query 1 has scores of +infinity
        for (std::int64_t d = 0; d < 32; ++d)
            ASSERT_TRUE(std::isfinite(data.exact[static_cast<std::size_t>(d)]));
        for (const AttentionKernel& kernel : kernels_for(test_case.problem)) {
            const PaddedArray o = run_attention(kernel, data);
            for (std::int64_t d = 0; d < 32; ++d) {
                EXPECT_TRUE(std::isnan(o.get(data.index(o.strides, 0, 1) + d))) << kernel.name;
                for (const std::int64_t query : {0, 2}) {
                    const auto i = static_cast<std::size_t>(query * 32 + d);
                    EXPECT_NEAR(o.get(data.index(o.strides, 0, query) + d), data.exact[i],
                                data.bound[i] + (kernel.rounds_weights ? data.weight_rounding[i] : 0.0))
                        << kernel.name;
                }
            }
        }
    }
}

// --- broken kernels, each wrong in exactly one way: the bounds must see every one

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

void ignores_the_bias(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionProblem changed = problem;
    changed.biased = false;
    reference().run(changed, args);
}

void shifts_the_bias(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    std::vector<float> bias(args.bias + 1, args.bias + problem.heads * problem.distances());
    bias.push_back(0.0F);
    AttentionCall changed = args;
    changed.bias = bias.data();
    reference().run(problem, changed);
}

void gives_heads_one_bias(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    std::vector<float> bias;
    for (std::int64_t head = 0; head < problem.heads; ++head)
        bias.insert(bias.end(), args.bias, args.bias + problem.distances());
    AttentionCall changed = args;
    changed.bias = bias.data();
    reference().run(problem, changed);
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
             Broken{"no bias", ignores_the_bias, "heads=2 q_len=33 k_len=70 head_dim=40 bias=yes"},
             Broken{"bias shifted", shifts_the_bias, "heads=2 q_len=33 k_len=70 head_dim=40 bias=yes"},
             Broken{"bias of head 0", gives_heads_one_bias, "heads=2 q_len=33 k_len=70 head_dim=40 bias=yes"},
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
