// Every int8 attention kernel of this CPU level against the exact result of the contract, within bounds
// computed from the data; exact integers; NaN; the same bits for any number of threads; bounds that see
// broken kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "aerogel/threads.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

KernelReferences<AttentionKernel> int8_kernels(const AttentionCase& test_case) {
    AttentionProblem problem = test_case.problem;
    problem.format = AttentionFormat::int8;
    problem.causal = problem.biased = false;  // their scales are tested where they do not compute
    return kernels_for(problem);
}

const AttentionKernel& reference() {
    return reference_of(AttentionFormat::int8);
}

TEST(QuantizedAttentionKernels, AllProblemsWithinBounds) {
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (test_case.problem.causal || test_case.problem.biased) continue;  // float attention only
        ++next;  // each problem meets two of the kinds, each kind all sorts of problems
        for (const Scales kind : {static_cast<Scales>(next % 4), static_cast<Scales>((next + 1) % 4)}) {
            AttentionData arrays(test_case);
            QuantizedData data(arrays, kind);
            for (const AttentionKernel& kernel : int8_kernels(test_case)) {
                data.solve(kernel);
                PaddedArray o;
                const auto lse = run_for_lse(kernel, arrays, data.problem, data.call(), &o);
                EXPECT_EQ(compare(data, o), "") << kernel.name << " scales " << static_cast<int>(kind);
                EXPECT_EQ(compare_lse(data, lse), "") << kernel.name << " scales " << static_cast<int>(kind);
            }
        }
    }
}

TEST(QuantizedAttentionKernels, IntegersAreExact) {
    // All queries are -128 and all keys the same, so all weights are the largest and o is the mean of whole
    // numbers.
    for (const double key : {-128.0, 127.0}) {
        const AttentionCase test_case = parse_attention_case("heads=2 q_len=33 k_len=128 head_dim=256");
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::bytes);
        for (std::int64_t i = 0; i < 2 * 128; ++i) {
            for (std::int64_t d = 0; d < 256; ++d) {
                arrays.k.set(arrays.kv_index(arrays.k.strides, i / 128, i % 128) + d, key);
                if (i % 128 < 33) arrays.q.set(arrays.index(arrays.q.strides, i / 128, i % 128) + d, -128.0);
            }
        }
        data.scale = 1.0F;
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            const PaddedArray o = run_attention(kernel, data);
            for (std::int64_t d = 0; d < 256; ++d) {
                double sum = 0.0;
                for (std::int64_t i = 0; i < 128; ++i)
                    sum += arrays.v.get(arrays.kv_index(arrays.v.strides, 1, i) + d);
                EXPECT_EQ(o.get(arrays.index(o.strides, 1, 32) + d), sum / 128.0) << kernel.name;
            }
        }
    }
}

/// What a kernel's find_scales() writes, one array behind the other.
std::vector<float> found_scales(const AttentionKernel& kernel, QuantizedData& data, std::int64_t block,
                                bool smooth_k) {
    const AttentionProblem& p = data.problem;
    const std::int64_t kv_maps = p.kv_maps(), groups = (p.k_len + 63) / 64;
    const std::int64_t sizes[] = {p.maps() * p.q_len, kv_maps * p.k_len, kv_maps * groups * p.head_dim,
                                  kv_maps * p.head_dim, kv_maps * p.head_dim};
    std::vector<float> found(
        static_cast<std::size_t>(std::accumulate(std::begin(sizes), std::end(sizes), std::int64_t{0})));
    std::vector<double> sums(static_cast<std::size_t>(kv_maps * mean_portions(p.k_len) * p.head_dim));
    float* to[5] = {found.data()};
    for (int i = 1; i < 5; ++i) to[i] = to[i - 1] + sizes[i - 1];
    AttentionCall call = data.call();
    call.q_tokens = block;
    call.k_tokens = 2 * block;
    call.smooth_k = smooth_k;
    call.int8 = {.q_scale = to[0],
                 .k_scale = to[1],
                 .v_scale = to[2],
                 .k_mean = smooth_k ? to[3] : nullptr,
                 .v_mean = to[4],
                 .sums = sums.data()};
    kernel.find_scales(p, call);
    return found;
}

TEST(QuantizedAttentionKernels, AllFindTheScalesOfTheReference) {
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::per_token);
        for (PaddedArray* array : {&arrays.q, &arrays.v})
            if (next % 3 == 0)
                array->set(next % test_case.problem.head_dim, std::numeric_limits<double>::infinity());
        const std::int64_t block = next % 2 == 0 ? 1 : 48;
        const std::vector<float> expected = found_scales(reference(), data, block, next % 5 != 0);
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            const std::vector<float> found = found_scales(kernel, data, block, next % 5 != 0);
            EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size() * 4), 0)
                << kernel.name << " " << test_case.line;
        }
        ++next;
    }
}

TEST(QuantizedAttentionKernels, ScalesFoundOnTheWayAreThoseFoundBefore) {
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::per_token);
        for (PaddedArray* array : {&arrays.q, &arrays.k, &arrays.v})
            if (++next % 5 == 0)
                array->set(next % test_case.problem.head_dim, std::numeric_limits<double>::infinity());
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            std::vector<double> sums(data.k_scale.size() * 256);
            AttentionCall call = data.call();
            call.int8.sums = sums.data();
            kernel.find_scales(data.problem, call);
            const PaddedArray expected = run_attention(kernel, data);
            for (std::vector<float>* scales : {&data.q_scale, &data.k_scale, &data.v_scale})
                std::fill(scales->begin(), scales->end(), 1.0F);
            data.on_the_way = call.int8.on_the_way = true;
            kernel.find_scales(data.problem, call);
            EXPECT_EQ(run_attention(kernel, data).bytes, expected.bytes)
                << kernel.name << " " << test_case.line;
            data.on_the_way = false;
        }
    }
}

TEST(QuantizedAttentionKernels, TokensInAnyOrderGiveTheSameBits) {
    for (const AttentionCase& test_case : attention_cases()) {
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::per_token);
        std::vector<PaddedArray> expected;
        std::vector<std::vector<float>> scales;
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            expected.push_back(run_attention(kernel, data));
            scales.push_back(found_scales(kernel, data, 3, true));
        }
        const ShuffledTokens shuffled(arrays);
        std::size_t next = 0;
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            EXPECT_EQ(shuffled.undone(run_attention(kernel, data)).bytes, expected[next].bytes)
                << kernel.name << " " << test_case.line;
            EXPECT_EQ(found_scales(kernel, data, 3, true), scales[next++])
                << kernel.name << " " << test_case.line;
        }
    }
}

TEST(QuantizedAttentionKernels, QuotientsAtTiesAreRoundedAsByDivision) {
    // One key has the largest weight, so o shows the integers of v: quotients that are half numbers, but for
    // the rounding of v and of the division.
    const AttentionCase test_case = parse_attention_case("q_len=1 k_len=1 head_dim=256");
    AttentionData arrays(test_case);
    QuantizedData data(arrays, Scales::per_token);
    std::fill(data.v_mean.begin(), data.v_mean.end(), 0.0F);
    std::fill(data.v_shift.begin(), data.v_shift.end(), 0.0F);
    std::mt19937 random(7);
    const float extremes[] = {0x1p-100F, 0x1.fffffep-1F, 0x1.fffffep-96F, 0x1p100F};
    for (int round = 0; round < 40; ++round) {
        for (std::int64_t d = 0; d < 256; ++d) {
            const float scale = std::uniform_real_distribution<float>(0.01F, 100.0F)(random);
            data.v_scale[static_cast<std::size_t>(d)] = round % 8 == 7 ? extremes[d % 4] : scale / 127.0F;
            const auto half = static_cast<float>(static_cast<int>(random() % 300) - 150) + 0.5F;
            arrays.v.set(arrays.kv_index(arrays.v.strides, 0, 0) + d,
                         static_cast<double>(half * data.v_scale[static_cast<std::size_t>(d)]));
        }
        data.solve();
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            data.solve(kernel);
            EXPECT_EQ(compare(data, run_attention(kernel, data)), "") << kernel.name << " round " << round;
        }
    }
}

TEST(QuantizedAttentionKernels, SameBitsForAnyNumberOfThreads) {
    const int before = num_threads();
    for (const char* line : {"heads=3 batch=2 q_len=200 k_len=513 head_dim=40",
                             "heads=4 kv_heads=2 batch=2 q_len=200 k_len=513 head_dim=40",
                             "heads=2 q_len=300 k_len=527 head_dim=64 mask=64x32 density=0.3"}) {
        const AttentionCase test_case = parse_attention_case(line);
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::per_token);
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            set_num_threads(1);
            const PaddedArray one = run_attention(kernel, data);
            for (const int threads : {2, 5}) {
                set_num_threads(threads);
                EXPECT_EQ(run_attention(kernel, data).bytes, one.bytes) << kernel.name << " " << line;
            }
        }
    }
    set_num_threads(before);
}

TEST(QuantizedAttentionKernels, AFullMaskGivesTheBitsOfDenseAttention) {
    const std::string line = "heads=2 q_len=200 k_len=601 head_dim=64";
    const AttentionCase dense = parse_attention_case(line);
    AttentionData arrays(dense);
    QuantizedData data(arrays, Scales::per_token);
    for (const char* mask : {" mask=64x64 fill=full", " mask=24x40 fill=full", " mask=200x128 fill=full"}) {
        const AttentionCase full = parse_attention_case(line + mask);
        AttentionData masked_arrays(full);
        QuantizedData masked(masked_arrays, Scales::per_token);
        for (const AttentionKernel& kernel : int8_kernels(dense))
            EXPECT_EQ(run_attention(kernel, masked).bytes, run_attention(kernel, data).bytes)
                << kernel.name << mask;
    }
}

TEST(QuantizedAttentionKernels, ScalesThatAreNaNReachExactlyWhatDependsOnThem) {
    AttentionCase test_case = parse_attention_case("q_len=96 k_len=201 head_dim=40 mask=32x20 fill=full");
    test_case.mask.row_start = {0, 2, 4, 6};
    test_case.mask.columns = {0, 1, 4, 5, 7, 8};  // groups of 64 keys: 0; 1; 2
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const char* where : {"q", "k", "unseen k", "v"}) {
        AttentionData arrays(test_case);
        QuantizedData data(arrays, Scales::per_token);
        const std::string name = where;
        if (name == "q") data.q_scale[40] = nan;
        if (name == "k") data.k_scale[101] = nan;
        if (name == "unseen k") data.k_scale[79] = nan;
        if (name == "v") data.v_scale[40 + 5] = nan;
        for (const AttentionKernel& kernel : int8_kernels(test_case)) {
            const PaddedArray o = run_attention(kernel, data);
            for (std::int64_t i = 0; i < 96 * 40; ++i) {
                const std::int64_t query = i / 40;
                const bool want = name == "q"   ? query == 40
                                  : name == "k" ? query / 32 == 1
                                  : name == "v" ? query / 32 == 1 && i % 40 == 5
                                                : false;
                EXPECT_EQ(std::isnan(o.get(arrays.index(o.strides, 0, query) + i % 40)), want)
                    << kernel.name << " " << where << " query " << query << " channel " << i % 40;
            }
        }
    }
}

/// Exponents near the end of float32: each row takes the value of its largest score.
TEST(QuantizedAttentionKernels, HugeExponentsLeaveTheLargest) {
    const AttentionCase test_case = parse_attention_case("q_len=20 k_len=150 head_dim=40");
    AttentionData arrays(test_case);
    QuantizedData data(arrays, Scales::per_token);
    data.scale = 5.0e35F;
    const PaddedArray expected = run_attention(reference(), data);
    for (const AttentionKernel& kernel : int8_kernels(test_case)) {
        const PaddedArray o = run_attention(kernel, data);
        for (std::int64_t i = 0; i < 20 * 40; ++i) {
            const std::int64_t index = arrays.index(o.strides, 0, i / 40) + i % 40;
            EXPECT_NEAR(o.get(index), expected.get(index), 1e-5) << kernel.name << " query " << i / 40;
        }
    }
}

using RunFunction = void (*)(const AttentionProblem&, const AttentionCall&) noexcept;

/// The reference with changed arguments.
template <auto kChange>
void run_changed(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    AttentionProblem changed_problem = problem;
    AttentionCall changed = args;
    kChange(changed_problem, changed);
    reference().run(changed_problem, changed);
}

constexpr auto drops_the_last_query = [](AttentionProblem& p, AttentionCall&) { --p.q_len; };
constexpr auto ignores_the_mask = [](AttentionProblem&, AttentionCall& a) { a.mask = {}; };
constexpr auto has_a_wrong_scale = [](AttentionProblem&, AttentionCall& a) { a.scale *= 1.001F; };
constexpr auto forgets_the_mean_of_v = [](AttentionProblem&, AttentionCall& a) { a.int8.v_shift = nullptr; };
constexpr auto forgets_the_offset_of_q = [](AttentionProblem&, AttentionCall& a) {
    a.int8.q_offset = nullptr;
};
constexpr auto forgets_the_offset_of_v = [](AttentionProblem&, AttentionCall& a) {
    a.int8.v_offset = nullptr;
};
constexpr auto takes_the_scales_of_a_neighbour = [](AttentionProblem&, AttentionCall& a) {
    ++a.int8.k_scale;
};
constexpr auto does_not_center_k = [](AttentionProblem&, AttentionCall& a) { a.int8.k_mean = nullptr; };
constexpr auto swaps_keys_and_values = [](AttentionProblem&, AttentionCall& a) { std::swap(a.k, a.v); };

/// Weights of one bit less.
void is_imprecise(const AttentionProblem& problem, const AttentionCall& args) noexcept {
    reference().run(problem, args);
    for (std::int64_t query = 0; query < problem.q_len; ++query)
        for (std::int64_t d = 0; d < problem.head_dim; ++d)
            static_cast<float*>(args.o)[query * args.o_strides.token + d] *= 1.0F + 1.0F / 1024.0F;
}

TEST(QuantizedAttentionBounds, BrokenKernelsAreCaught) {
    struct Broken {
        const char* name;
        RunFunction run;
        const char* line;
        Scales kind;
    };
    const char* dense = "q_len=50 k_len=300 head_dim=64";
    for (const Broken& broken : {
             Broken{"last query", run_changed<drops_the_last_query>, dense, Scales::blocks},
             Broken{"mask", run_changed<ignores_the_mask>,
                    "q_len=100 k_len=601 head_dim=64 mask=24x40 density=0.3", Scales::per_token},
             Broken{"scale", run_changed<has_a_wrong_scale>, dense, Scales::per_token},
             Broken{"scale of bytes", run_changed<has_a_wrong_scale>, dense, Scales::bytes},
             Broken{"mean of v", run_changed<forgets_the_mean_of_v>, dense, Scales::per_token},
             Broken{"offset of q", run_changed<forgets_the_offset_of_q>, dense, Scales::fixed},
             Broken{"offset of v", run_changed<forgets_the_offset_of_v>, dense, Scales::fixed},
             Broken{"scales of k", run_changed<takes_the_scales_of_a_neighbour>, dense, Scales::per_token},
             Broken{"mean of k", run_changed<does_not_center_k>, dense, Scales::per_token},
             Broken{"k and v", run_changed<swaps_keys_and_values>, dense, Scales::blocks},
             Broken{"precision", is_imprecise, dense, Scales::per_token},
         }) {
        const AttentionCase test_case = parse_attention_case(broken.line);
        AttentionData arrays(test_case);
        QuantizedData data(arrays, broken.kind);
        AttentionKernel kernel = reference();
        EXPECT_EQ(compare(data, run_attention(kernel, data)), "") << broken.name;
        kernel.run = broken.run;
        EXPECT_NE(compare(data, run_attention(kernel, data)), "") << broken.name;
    }
}

}  // namespace
}  // namespace aerogel::testing
