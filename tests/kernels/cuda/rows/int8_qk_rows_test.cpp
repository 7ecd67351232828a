// The rows of the format int8_qk for v of 16 bits: the integers of q and k are those of the CPU, so results
// are within the bounds of float attention of the rounded operands.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cuda/rows/attention_rows.h"
#include "kernels/shuffled_tokens.h"

namespace aerogel::testing {
namespace {

/// The same numbers in f32.
PaddedArray widened(const PaddedArray& array) {
    const std::size_t count = array.bytes.size() / size_of(array.dtype);
    PaddedArray wide = {std::vector<std::byte>(count * sizeof(float)), array.strides, DType::f32};
    for (std::size_t i = 0; i < count; ++i)
        wide.set(static_cast<std::int64_t>(i), array.get(static_cast<std::int64_t>(i)));
    return wide;
}

/// A call in int8_qk over arrays of 16 bits, and what it must give.
struct Int8QkData {
    Int8QkData(const AttentionCase& test_case, std::int64_t block, bool smooth)
        : data(test_case), expected(test_case), problem(test_case.problem), block_(block), smooth_(smooth) {
        problem.format = AttentionFormat::int8_qk;
        for (PaddedArray* array : {&expected.q, &expected.k}) *array = widened(*array);
        round_operands(expected, problem.format, call());
    }
    AttentionCall call() const {
        AttentionCall call = call_of(data);
        call.q_tokens = block_;
        call.k_tokens = 2 * block_;
        if (block_ == 1) call.k_tokens = 1;
        call.smooth_k = smooth_;
        return call;
    }

    AttentionData data, expected;
    AttentionProblem problem;

  private:
    std::int64_t block_;
    bool smooth_;
};

TEST(CudaAttention, Int8QkWithinBounds) {
    const LaunchReport report;
    int next = 0;
    for (const std::string line :
         {"heads=2 q_len=70 k_len=150 head_dim=64 margin=8",
          "heads=3 q_len=33 k_len=129 head_dim=40 batch=2 layout=bsnd",
          "heads=2 kv_heads=1 q_len=130 k_len=200 head_dim=128 layout=bsnd margin=8",
          "q_len=40 k_len=100 head_dim=256", "heads=2 q_len=100 k_len=333 head_dim=72 mask=32x24 density=0.4",
          "q_len=90 k_len=70 head_dim=64 causal=yes", "q_len=70 k_len=530 head_dim=100 values=large",
          "q_len=40 k_len=64 head_dim=33 values=denormal",
          "q_len=70 k_len=90 head_dim=130 mask=16x32 fill=empty_rows density=0.5"}) {
        for (const char* dtype : {" dtype=bf16", " dtype=f16"}) {
            const AttentionCase test_case = parse_attention_case(line + dtype);
            if (test_case.problem.dtype == DType::f16 && test_case.values != Values::normal) continue;
            AttentionProblem problem = test_case.problem;
            problem.format = AttentionFormat::int8_qk;
            ++next;
            for (const AttentionKernel& kernel : cuda_rows(problem)) {
                Int8QkData arrays(test_case, next % 3 == 0 ? 24 : 1, next % 4 != 0);
                const EmulatorMood mood(next % 2 == 0, next);
                solve_for(arrays.expected, kernel);
                const PaddedArray o = run_row(kernel, arrays.data, arrays.problem, arrays.call()).o;
                EXPECT_EQ(compare(arrays.expected, o, kernel.rounds_weights) +
                              golden_difference(kernel, arrays.expected, o, arrays.expected.bound),
                          "")
                    << kernel.name << dtype;
                const ShuffledTokens shuffled(arrays.data);
                EXPECT_EQ(
                    shuffled.undone(run_row(kernel, arrays.data, arrays.problem, arrays.call()).o).bytes,
                    o.bytes)
                    << kernel.name << line << dtype;
            }
        }
    }
    EXPECT_EQ(report.lines_with("matrix_conflicts"), "");
}

TEST(CudaAttention, MasksOfKeysHideThemInInt8Qk) {
    const HiddenKeys hidden("heads=2 batch=2 q_len=70 k_len=200 head_dim=64 dtype=bf16");
    Int8QkData arrays(hidden.test_case, 1, true);
    const AttentionProblem problem = hidden.problem(arrays.problem);
    for (const AttentionKernel& kernel : cuda_rows(problem)) {
        solve_for(arrays.expected, kernel);
        const PaddedArray o = run_row(kernel, arrays.data, problem, hidden.call(arrays.call())).o;
        EXPECT_EQ(compare(arrays.expected, o, kernel.rounds_weights), "") << kernel.name;
    }
}

TEST(CudaAttention, ANaNOfInt8QkReachesTheRowsThatSeeItAndNoOther) {
    AttentionCase test_case =
        parse_attention_case("q_len=96 k_len=101 head_dim=40 mask=32x20 fill=full dtype=bf16");
    test_case.mask.row_start = {0, 2, 4, 6};
    test_case.mask.columns = {0, 1, 1, 2, 4, 5};
    for (const bool in_values : {false, true}) {
        Int8QkData arrays(test_case, 1, false);
        AttentionData& data = arrays.data;
        PaddedArray& array = in_values ? data.v : data.k;
        array.set(data.kv_index(array.strides, 0, 47) + 5, std::numeric_limits<double>::quiet_NaN());
        data.q.set(data.index(data.q.strides, 0, 3), std::numeric_limits<double>::quiet_NaN());
        for (const AttentionKernel& kernel : cuda_rows(arrays.problem)) {
            const PaddedArray o = run_row(kernel, data, arrays.problem, arrays.call()).o;
            for (std::int64_t i = 0; i < 96 * 40; ++i)
                EXPECT_EQ(std::isnan(o.get(data.index(o.strides, 0, i / 40) + i % 40)),
                          i / 40 == 3 || (i / 40 / 32 == 1 && (!in_values || i % 40 == 5)))
                    << kernel.name << " query " << i / 40 << " channel " << i % 40;
        }
    }
}

}  // namespace
}  // namespace aerogel::testing
