// The kernels of AMX on machines without it: their sources once more over tiles in software
// (software_tiles.h). Integers are those of the reference and of AVX-512, to the bit.
#include <gtest/gtest.h>

#include "base/cpu_features.h"
#include "kernels/cpu/avx512/kernels.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/linear_cases.h"

namespace aerogel::software_amx {

extern const LinearKernel kW8A8;
extern const AttentionKernel kAttention;
extern const AttentionKernel kInt8Attention;

}  // namespace aerogel::software_amx

namespace aerogel::testing {
namespace {

/// With so many maps that tasks have more than one block of 32 rows.
std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all = attention_cases();
    for (const char* line : {"heads=64 q_len=70 k_len=77 head_dim=17 dtype=bf16",
                             "heads=64 q_len=90 k_len=45 head_dim=33 causal=yes dtype=bf16",
                             "heads=64 q_len=70 k_len=77 head_dim=17 mask=70x24 density=0.7 dtype=bf16"})
        all.push_back(parse_attention_case(line));
    return all;
}

class SoftwareAmx : public ::testing::Test {
  protected:
    void SetUp() override {
        if (!cpu_has(CpuLevel::avx512_bf16)) GTEST_SKIP() << "needs AVX-512 BF16";
    }
};

TEST_F(SoftwareAmx, LinearsAgreeWithTheReference) {
    int runs = 0;
    for (const LinearShape& shape : linear_shapes()) {
        if (shape.speed) continue;
        for (const LinearCase& c : linear_cases(shape)) {
            if (!software_amx::kW8A8.why_not(c.problem).empty()) continue;
            EXPECT_EQ(LinearArrays(c).check(software_amx::kW8A8), "");
            ++runs;
        }
    }
    EXPECT_GT(runs, 100);
}

TEST_F(SoftwareAmx, Bf16AttentionStaysWithinItsBounds) {
    int runs = 0;
    for (const AttentionCase& test_case : cases()) {
        if (!software_amx::kAttention.why_not(test_case.problem).empty()) continue;
        const AttentionData data(test_case);
        EXPECT_EQ(compare(data, run_attention(software_amx::kAttention, data), true), "") << test_case.line;
        ++runs;
    }
    EXPECT_GT(runs, 10);
}

TEST_F(SoftwareAmx, Int8AttentionHasTheBitsOfAvx512) {
    int next = 0;
    for (const AttentionCase& test_case : cases()) {
        if (test_case.problem.causal || test_case.problem.biased) continue;
        AttentionData arrays(test_case);
        QuantizedData data(arrays, static_cast<Scales>(next++ % 4));
        for (const bool centroids : {false, true}) {
            if (centroids && !test_case.problem.masked) continue;
            data.problem.centroids = centroids;
            const PaddedArray o = run_attention(software_amx::kInt8Attention, data);
            const PaddedArray wanted = run_attention(avx512::kInt8Attention, data);
            EXPECT_TRUE(o.bytes == wanted.bytes) << test_case.line << " centroids " << centroids;
        }
    }
}

}  // namespace
}  // namespace aerogel::testing
